"""Where each setting comes from, what is refused, and how a failed connection is told."""

import os
from pathlib import Path

import pytest

from scripts import settings as module
from scripts.errors import Exit, WarehouseError
from scripts.settings import ROOT, Settings, connect, export_environment, remember_reporting, settings
from tests.python.conftest import Home, forget_caches

Environment = pytest.MonkeyPatch


@pytest.fixture
def home(environment: Environment, tmp_path: Path) -> Path:
    environment.setenv("WAREHOUSE_HOME", str(tmp_path / "home"))
    environment.setenv("SQLMESH_DOTENV_PATH", str(tmp_path / ".env"))
    return tmp_path / "home"


def test_defaults(home: Path) -> None:
    now = settings()
    assert now.embedded
    assert (now.reporting_timezone, now.reporting_currency, now.max_reject_share) == ("UTC", "USD", 0.5)
    assert (now.warehouse_sslmode, now.warehouse_admin, now.warehouse_gateway) == (
        "require",
        "postgres",
        "postgres",
    )
    assert now.passfile == home / "pgpass"


def test_default_home_is_in_the_project(environment: Environment) -> None:
    environment.delenv("WAREHOUSE_HOME")
    assert settings().warehouse_home == ROOT / ".warehouse"


def test_a_relative_home_is_the_projects_wherever_one_stands(environment: Environment, tmp_path: Path) -> None:
    environment.setenv("WAREHOUSE_HOME", "elsewhere")
    environment.chdir(tmp_path)
    assert settings().warehouse_home == ROOT / "elsewhere"


def test_nearest_wins(home: Path, environment: Environment, tmp_path: Path) -> None:
    home.mkdir()
    (home / "settings.env").write_text("REPORTING_CURRENCY=SEK\nREPORTING_TIMEZONE=Asia/Tokyo\n")
    assert (settings().reporting_currency, settings().reporting_timezone) == ("SEK", "Asia/Tokyo")
    forget_caches()
    (tmp_path / ".env").write_text("REPORTING_CURRENCY=EUR\nWAREHOUSE_NOT_OURS=1\n")
    assert (settings().reporting_currency, settings().reporting_timezone) == ("EUR", "Asia/Tokyo")
    forget_caches()
    environment.setenv("REPORTING_CURRENCY", "CHF")
    assert settings().reporting_currency == "CHF"


def test_the_home_of_settings_env_may_come_from_dotenv(environment: Environment, tmp_path: Path) -> None:
    environment.delenv("WAREHOUSE_HOME")
    environment.setenv("SQLMESH_DOTENV_PATH", str(tmp_path / ".env"))
    (tmp_path / ".env").write_text(f"WAREHOUSE_HOME={tmp_path}\n")
    (tmp_path / "settings.env").write_text("REPORTING_CURRENCY=NOK\n")
    assert settings().reporting_currency == "NOK"


def test_empty_counts_as_unset(home: Path, environment: Environment, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REPORTING_CURRENCY=EUR\nWAREHOUSE_HOST=\n")
    for name in Settings.model_fields:
        if name != "warehouse_home":
            environment.setenv(name.upper(), "")
    assert settings().reporting_currency == "EUR"
    assert settings().embedded and settings().max_reject_share == 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REPORTING_TIMEZONE", "Mars/Olympus"),
        ("REPORTING_TIMEZONE", "Europe"),
        ("REPORTING_TIMEZONE", "../../etc/passwd"),
        ("REPORTING_TIMEZONE", "+02:00"),
        ("REPORTING_CURRENCY", "usd"),
        ("REPORTING_CURRENCY", "EURO"),
        ("REPORTING_CURRENCY", "EUR\n"),
        ("MAX_REJECT_SHARE", "1.5"),
        ("MAX_REJECT_SHARE", "half"),
        ("MAX_REJECT_SHARE", "nan"),
        ("WAREHOUSE_PORT", "0"),
        ("WAREHOUSE_PORT", "five"),
        ("WAREHOUSE_SSLMODE", "on"),
        ("WAREHOUSE_GATEWAY", "spark"),
    ],
)
def test_wrong_values_are_named(home: Path, environment: Environment, name: str, value: str) -> None:
    environment.setenv(name, value)
    with pytest.raises(WarehouseError) as caught:
        settings()
    assert f"{name}={value}" in caught.value.what
    assert caught.value.code == Exit.INPUT_REFUSED


def test_what_was_deployed_is_remembered(home: Path, environment: Environment) -> None:
    environment.setenv("REPORTING_CURRENCY", "EUR")
    environment.setenv("REPORTING_TIMEZONE", "Europe/Berlin")
    remember_reporting()
    environment.delenv("REPORTING_CURRENCY")
    environment.delenv("REPORTING_TIMEZONE")
    forget_caches()
    assert (settings().reporting_currency, settings().reporting_timezone) == ("EUR", "Europe/Berlin")
    assert [path.name for path in home.iterdir()] == ["settings.env"]


def test_only_the_address_that_make_env_exported_is_embedded(home: Path, environment: Environment) -> None:
    environment.setenv("WAREHOUSE_HOST", "127.0.0.1")
    environment.setenv("WAREHOUSE_PORT", "25432")
    environment.setenv("WAREHOUSE_EMBEDDED", "127.0.0.1:25432")
    assert settings().embedded
    for name, value in (("WAREHOUSE_HOST", "db.example.com"), ("WAREHOUSE_PORT", "5432")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value)
            forget_caches()
            assert not settings().embedded
    forget_caches()


def test_no_server_is_told(home: Path) -> None:
    for action in (export_environment, module.environment, lambda: connect("loader")):
        with pytest.raises(WarehouseError, match="no server here yet") as caught:
            action()
        assert "make up" in caught.value.hint and "WAREHOUSE_HOST" in caught.value.hint


def test_external_server_leaves_nothing_of_the_embedded_one(home: Path, environment: Environment) -> None:
    environment.setenv("WAREHOUSE_HOST", "db.example.com")
    environment.setenv("WAREHOUSE_EMBEDDED", "127.0.0.1:25432")
    environment.setenv("PGSSLROOTCERT", str(home / "server.crt"))
    environment.setenv("PGPASSFILE", str(home.parent / "mine"))
    environment.setenv("PGPASSWORD", "x")
    export_environment()
    assert os.environ["PGHOST"] == "db.example.com" and os.environ["PGPORT"] == "5432"
    assert os.environ["PGPASSFILE"] == str(home.parent / "mine")
    assert not {"WAREHOUSE_EMBEDDED", "PGSSLROOTCERT", "PGPASSWORD"} & set(os.environ)


def test_the_embedded_server_never_uses_a_persons_passfile(home: Path, environment: Environment) -> None:
    environment.setenv("PGPASSFILE", "/home/someone/.pgpass")
    assert settings().passfile == home / "pgpass"


def test_session_ignores_the_shell(server: Home, environment: Environment) -> None:
    for name, value in {
        "PGTZ": "Asia/Tokyo",
        "PGOPTIONS": "-c search_path=x -c TimeZone=Asia/Tokyo",
        "PGPASSWORD": "wrong",
        "PGHOSTADDR": "192.0.2.1",
        "PGSERVICE": "none",
        "PGUSER": "nobody",
        "PGDATABASE": "nothing",
    }.items():
        environment.setenv(name, value)
    session = connect("sqlmesh_user", application_name="trial", options="-c work_mem=5MB")
    with session, session.cursor() as cursor:
        query = "SELECT current_user, current_database(), current_setting({}), current_setting({}), current_setting({})"
        cursor.execute(query.format("'timezone'", "'application_name'", "'work_mem'"))
        assert cursor.fetchone() == ("sqlmesh_user", "warehouse", "UTC", "trial", "5MB")
    session.close()


def test_wrong_password_is_told_without_it(server: Home, environment: Environment, tmp_path: Path) -> None:
    passfile = tmp_path / "pgpass"
    environment.setenv("WAREHOUSE_HOST", "127.0.0.1")
    environment.setenv("WAREHOUSE_PORT", str(server.port))
    environment.setenv("PGPASSFILE", str(passfile))

    def refusal(login: str = "analyst") -> WarehouseError:
        with pytest.raises(WarehouseError) as caught:
            connect(login)
        assert caught.value.code == Exit.SERVICE_DOWN
        assert caught.value.__cause__ is None and caught.value.__suppress_context__
        return caught.value

    assert f"{passfile} has no password for login analyst" in refusal().what
    passfile.write_text("*:*:*:analyst:hunter2secret\n*:*:*:stranger:hunter3secret\n")
    passfile.chmod(0o600)
    for login in ("analyst", "stranger"):
        told = refusal(login)
        assert "wrong password" in told.what and str(passfile) in told.hint
        assert "hunter" not in str(told)


def test_other_refusals_are_told(server: Home, environment: Environment) -> None:
    with pytest.raises(WarehouseError, match="may not connect to database sqlmesh_state"):
        connect("analyst", "sqlmesh_state")
    with pytest.raises(WarehouseError, match="database nowhere does not exist") as caught:
        connect("analyst", "nowhere")
    assert "make init" in caught.value.hint
    environment.setenv("WAREHOUSE_HOST", "127.0.0.1")
    environment.setenv("WAREHOUSE_PORT", "1")
    forget_caches()
    with pytest.raises(WarehouseError, match="no server answers at 127.0.0.1:1"):
        connect("analyst")


def test_env_example_names_every_setting() -> None:
    text = (ROOT / ".env.example").read_text()
    named = {line.lstrip("#").split("=")[0].lower() for line in text.splitlines() if "=" in line.split(" ")[0]}
    assert named == set(Settings.model_fields) - {"warehouse_embedded"}
