"""Settings of the project, from the environment, `.env`, and the embedded server's own record.

Nearest wins: environment, then `.env`, then `.warehouse/settings.env` (what this warehouse was last deployed with).
"""

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection, cursor
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from scripts.errors import OLDER_SETUP, Exit, PassingFault, WarehouseError

ROOT = Path(__file__).resolve().parent.parent

# Login -> the database it works in. The same names serve the embedded server and any other.
LOGINS = {
    "loader": "warehouse",
    "sqlmesh_user": "warehouse",
    "sqlmesh_state_user": "sqlmesh_state",
    "test_user": "sqlmesh_test",
    "analyst": "warehouse",
    "agent": "warehouse",
    "monitor": "warehouse",
}

# Logins whose sessions can hash personal data (ops.keyed_hash).
HASHING = ("loader", "sqlmesh_user")

# What a shell may hold for other servers; libpq would prefer each of these to what is set here.
FOREIGN = ("PGHOSTADDR", "PGOPTIONS", "PGPASSWORD", "PGSERVICE")


class Settings(BaseSettings):
    """Each field is the environment variable of the same name in upper case; an empty one counts as unset."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore")

    warehouse_host: str | None = None
    warehouse_port: int = Field(default=5432, ge=1, le=65535)
    warehouse_sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "require"
    warehouse_admin: str = "postgres"
    warehouse_home: Path = Field(default=ROOT / ".warehouse", validate_default=True)
    warehouse_gateway: Literal["postgres", "duckdb"] = "postgres"
    # "host:port" of the embedded server, exported by `make env`: tells its address from one that a person set.
    warehouse_embedded: str | None = None
    # Whether a change may drop what others have built on the marts (docs/decisions/0026-views-of-others-survive.md).
    warehouse_break_dependents: bool = False
    pgpassfile: Path | None = None
    pgsslrootcert: str | None = None
    reporting_timezone: str = "UTC"
    reporting_currency: str = Field(default="USD", pattern="^[A-Z]{3}$")
    max_reject_share: float = Field(default=0.5, ge=0, le=1)
    warehouse_backups: Path | None = None
    warehouse_backups_kept: int = Field(default=3, ge=1)
    pii_key: SecretStr | None = Field(default=None, min_length=16)
    alert_webhook_url: SecretStr | None = None
    alert_smtp_url: SecretStr | None = None
    alert_mail_to: str | None = None
    alert_mail_from: str | None = None
    heartbeat_url: SecretStr | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # SQLMesh reads its own variable for another `.env`: one file for both.
        dotenv = DotEnvSettingsSource(settings_cls, env_file=os.environ.get("SQLMESH_DOTENV_PATH") or ROOT / ".env")
        nearest = {**dotenv(), **env_settings()}
        home = _absolute(Path(nearest.get("warehouse_home", ".warehouse")))
        remembered = DotEnvSettingsSource(settings_cls, env_file=home / "settings.env")
        return env_settings, dotenv, remembered

    @field_validator("warehouse_home", "pgpassfile", "warehouse_backups")
    @classmethod
    def _resolve(cls, path: Path | None) -> Path | None:
        return path and _absolute(path)

    @field_validator("pgsslrootcert")
    @classmethod
    def _resolve_unless_system(cls, path: str | None) -> str | None:
        return str(_absolute(Path(path))) if path and path != "system" else path  # libpq's word for this machine's

    @field_validator("reporting_timezone")
    @classmethod
    def _zone_exists(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # unknown; not a key ("/etc", "../x"); a directory ("Europe")
            raise ValueError("not a time zone of the IANA database (such as Europe/Berlin)") from None
        return name

    @field_validator("alert_webhook_url", "heartbeat_url", "alert_smtp_url")
    @classmethod
    def _url_is_whole(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        schemes = ("smtp", "smtps") if info.field_name == "alert_smtp_url" else ("https", "http")
        parts = urlsplit(url.get_secret_value()) if url else None
        if parts and (parts.scheme not in schemes or not parts.hostname):
            raise ValueError(f"not a URL of the form {schemes[0]}://host/...")
        return url

    @property
    def embedded(self) -> bool:
        """Whether the server is the one in `warehouse_home`, which `make up` starts and `make down` stops."""
        return not self.warehouse_host or f"{self.warehouse_host}:{self.warehouse_port}" == self.warehouse_embedded

    @property
    def port_record(self) -> Path:
        """Where the embedded server keeps its port."""
        return self.warehouse_home / "port"

    @property
    def certificate(self) -> Path:
        """The embedded server's certificate, which clients check it against."""
        return self.warehouse_home / "server.crt"

    @property
    def pii_key_file(self) -> Path:
        """The key of ops.keyed_hash, where PII_KEY does not say it."""
        return self.warehouse_home / "pii.key"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port. Raises WarehouseError when no server is known."""
        if not self.embedded:
            assert self.warehouse_host
            return self.warehouse_host, self.warehouse_port
        try:
            return "127.0.0.1", int(self.port_record.read_text())
        except FileNotFoundError:
            raise WarehouseError(
                f"no server here yet ({self.warehouse_home})", "run `make up`, or set WAREHOUSE_HOST"
            ) from None
        except (OSError, ValueError) as error:
            raise WarehouseError(
                f"the embedded server's port cannot be read: {error}",
                f"{self.port_record} must hold one number",
            ) from None

    @property
    def admin(self) -> str:
        """The login that makes roles and databases."""
        return "postgres" if self.embedded else self.warehouse_admin

    @property
    def passfile(self) -> Path:
        """The pgpass file. The embedded server has its own, so that it never writes into a person's."""
        own = self.warehouse_home / "pgpass"
        return own if self.embedded else self.pgpassfile or own

    @property
    def sslrootcert(self) -> str | None:
        """What the server's certificate is checked against; None: libpq's default."""
        own = str(self.certificate)
        if self.embedded:
            return own
        return self.pgsslrootcert if self.pgsslrootcert != own else None  # left by an earlier `make env`

    @property
    def remembered(self) -> Path:
        """What this warehouse was last deployed with."""
        return self.warehouse_home / "settings.env"

    @property
    def backups(self) -> Path:
        """Where backups are kept."""
        return self.warehouse_backups or self.warehouse_home / "backups"

    @property
    def utc(self) -> str:
        """The session time zone: UTC. An embedded server without tzdata knows it only by its older name."""
        return "UTC" if not self.embedded or Path("/usr/share/zoneinfo/UTC").exists() else "GMT"


def _absolute(path: Path) -> Path:
    return (ROOT / path.expanduser()).resolve()


@cache
def settings() -> Settings:
    """The settings, read once per process. Raises WarehouseError naming each variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = []
        for e in error.errors():
            name = str(e["loc"][0])
            is_secret = name.endswith("_url") or name == "pii_key"  # it may hold a password or a token
            value = "***" if is_secret else e["input"]
            wrong.append(f"{name.upper()}={value!s}: {e['msg'].removeprefix('Value error, ')}")
        raise WarehouseError(
            "; ".join(wrong),
            "correct it in the environment or in .env (see .env.example)",
            Exit.INPUT_REFUSED,
        ) from None


def remember_reporting() -> None:
    """Write the REPORTING_* values into `<home>/settings.env`, as the defaults of every later command."""
    now = settings()
    write_whole(
        now.remembered,
        "# What this warehouse was last deployed with.\n"
        f"REPORTING_TIMEZONE={now.reporting_timezone}\nREPORTING_CURRENCY={now.reporting_currency}\n",
    )


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that readers and crashes see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def environment() -> dict[str, str]:
    """What SQLMesh's config and libpq read, as `make env` prints it. Raises WarehouseError without a server."""
    now = settings()
    host, port = now.address
    values = {
        "WAREHOUSE_GATEWAY": now.warehouse_gateway,
        "WAREHOUSE_DUCKDB": str(now.warehouse_home / "warehouse.duckdb"),
        "WAREHOUSE_HOST": host,
        "WAREHOUSE_PORT": str(port),
        "WAREHOUSE_SSLMODE": now.warehouse_sslmode,
        "PGPASSFILE": str(now.passfile),
        "PGHOST": host,
        "PGPORT": str(port),
        "PGSSLMODE": now.warehouse_sslmode,
        "PGTZ": now.utc,
        "REPORTING_TIMEZONE": now.reporting_timezone,
        "REPORTING_CURRENCY": now.reporting_currency,
        "SQLMESH__DISABLE_ANONYMIZED_ANALYTICS": "true",
    }
    if now.embedded:
        values["WAREHOUSE_EMBEDDED"] = f"{host}:{port}"
    if now.sslrootcert:
        values["PGSSLROOTCERT"] = now.sslrootcert
    return values


def export_environment() -> None:
    """Put `environment()` into this process, and take out what the shell holds for other servers."""
    os.environ.update(environment())
    _drop_foreign()


def _drop_foreign() -> None:
    now = settings()
    for name in FOREIGN:
        os.environ.pop(name, None)
    if not now.embedded:  # left by an earlier `make env`
        os.environ.pop("WAREHOUSE_EMBEDDED", None)
    if not now.sslrootcert:
        os.environ.pop("PGSSLROOTCERT", None)


def check_passfile() -> None:
    """Refuse a pass file that others can read (libpq would only skip it), or that this account cannot."""
    _check_secret(settings().passfile, "passwords")


def _check_secret(path: Path, what: str) -> None:
    if path.exists() and path.stat().st_mode & 0o077:
        raise WarehouseError(f"{path} holds {what} and others can read it", f"run: chmod 600 {path}")
    if path.exists() and not os.access(path, os.R_OK):
        raise WarehouseError(f"this account cannot read {path}", "run as the account that made it")


def pii_key() -> bytes | None:
    """The key that personal data are hashed with; None where there is none yet. Raises WarehouseError."""
    now = settings()
    if now.pii_key:
        return now.pii_key.get_secret_value().encode()
    _check_secret(now.pii_key_file, "the key of personal data")
    return now.pii_key_file.read_bytes().strip() or None if now.pii_key_file.exists() else None


def hmac_pads() -> tuple[str, str] | None:
    """The key as HMAC-SHA256 mixes it into its inner and its outer hash, in hex; None where there is none yet."""
    key = pii_key()
    if key is None:
        return None
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    return bytes(byte ^ 0x36 for byte in block).hex(), bytes(byte ^ 0x5C for byte in block).hex()


def hashing_options() -> str:
    """What libpq's `options` say for ops.keyed_hash to work in the session: the key is in no query and in no log."""
    pads = hmac_pads()
    return f"-c warehouse.pii_inner={pads[0]} -c warehouse.pii_outer={pads[1]}" if pads else ""


def check_pii_key(cur: cursor) -> None:
    """Raises WarehouseError (MISMATCH) where the session's key is not the one that hashes were made with."""
    try:
        cur.execute("SELECT ops.check_pii_key()")
    except errors.InvalidAuthorizationSpecification as error:
        raise WarehouseError(str(error.diag.message_primary), str(error.diag.message_hint), Exit.MISMATCH) from None
    except errors.UndefinedFunction:
        raise WarehouseError(*OLDER_SETUP) from None


class LoginRefused(WarehouseError):
    """The password is wrong, or there is no such login: servers do not tell which."""


class Unreachable(WarehouseError):
    """No server answers there, or one that cannot prove that it is the right one: another login would not help."""


class Starting(Unreachable, PassingFault):
    """It will answer in a moment, or has just stopped."""


def connect(login: str, database: str | None = None, **kwargs: Any) -> connection:
    """A connection as `login`, to its own database unless another is named; `kwargs` go to libpq.

    Raises WarehouseError (SERVICE_DOWN), which never holds a password.
    """
    now = settings()
    host, port = now.address
    check_passfile()
    _drop_foreign()
    os.environ["PGTZ"] = now.utc  # it beats `options`, and libpq has no parameter for it
    dbname = database or LOGINS.get(login, "postgres")
    options = f"{hashing_options() if login in HASHING else ''} {kwargs.pop('options', '')}"
    parameters = {
        "host": host,
        "port": port,
        "dbname": dbname,
        "user": login,
        "sslmode": now.warehouse_sslmode,
        "passfile": str(now.passfile),
        "application_name": "warehouse",
        "connect_timeout": 10,
        "options": f"-c TimeZone={now.utc} {options}",
    }
    if now.sslrootcert:
        parameters["sslrootcert"] = now.sslrootcert
    try:
        made: connection = psycopg2.connect(**{**parameters, **kwargs})
        return made
    except psycopg2.OperationalError as error:
        raise explain(error, login, dbname) from None


def explain(error: psycopg2.OperationalError, login: str, database: str) -> WarehouseError:
    """Turn libpq's refusal of a connection into what happened and what to do."""
    now, message = settings(), str(error).strip()
    address = "{}:{}".format(*now.address)
    if any(part in message for part in ("certificate verify failed", "does not match host name", "root certificate")):
        hint = (
            f"{message}\n  WAREHOUSE_SSLMODE={now.warehouse_sslmode}: PGSSLROOTCERT must name the certificate of the"
            f" authority that signed the server's, and WAREHOUSE_HOST the server as its certificate does"
        )
        return Unreachable(f"the certificate of the server at {address} is not trusted; nothing was sent", hint)
    if "Connection refused" in message:
        hint = "run `make up`" if now.embedded else "start that server, or correct WAREHOUSE_HOST and WAREHOUSE_PORT"
        return Unreachable(f"no server answers at {address}", hint)
    if "no password supplied" in message:
        return WarehouseError(f"{now.passfile} has no password for login {login} at {address}", "run `make init`")
    if "password authentication failed" in message:
        hint = f"look at its line in {now.passfile} (host:port:database:login:password), or run `make init`"
        return LoginRefused(f"login {login} was refused at {address}: wrong password or no such login", hint)
    if f'database "{database}" does not exist' in message:
        return WarehouseError(f"database {database} does not exist at {address}", "run `make init`")
    if "permission denied for database" in message:
        return WarehouseError(f"login {login} may not connect to database {database}", "use the login meant for it")
    if "is starting up" in message or "shutting down" in message or "in recovery mode" in message:
        return Starting(f"the server at {address} is starting or stopping", "try again in a moment")
    return WarehouseError(f"login {login} cannot connect to {database} at {address}", message.replace("\n", "\n  "))
