"""Alerts of the scheduled job: one when something fails, one when it works again, to whom the settings name.

What is open is kept in ops.incidents, by the step that failed and who is to look; while the database is away, in a file
beside the settings of this warehouse. Nothing here fails a run: what cannot be sent is told and tried again next time.
"""

import errno
import html
import json
import smtplib
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg2
from psycopg2.extensions import connection

from scripts import log
from scripts.errors import WarehouseError, describe
from scripts.settings import settings, write_whole

OPERATOR = "operator"
"""Who looks where no owner of a model is concerned."""

TIMEOUT_SECONDS = 5
"""So long a mail server or a webhook may take, all of them together: they are called at the same time."""

Troubles = dict[str, str]
"""Who is to look -> what is wrong."""

_Key = tuple[str, str]


@dataclass(frozen=True)
class Message:
    """What is sent: one line, and what more there is to say."""

    subject: str
    text: str


def troubles(error: BaseException) -> Troubles:
    """What an error tells to whom: the owners of the models that failed, or the operator."""
    if isinstance(error, WarehouseError):
        found: Troubles = {}
        for failure in error.failures:
            said = f"{failure.model}: {failure.what}"
            found[failure.owner] = f"{found[failure.owner]}\n{said}" if failure.owner in found else said
        return found or {OPERATOR: str(error)}
    return {OPERATOR: f"{type(error).__name__}: {describe(error)}"}


def settle(steps: dict[str, Troubles], session: Callable[[], connection]) -> None:
    """Open an incident for every trouble that is new, close those of steps that went well, and send what that means.

    `steps` holds those that were taken, each with its troubles; what is known of others stays as it is. `session` opens
    one of sqlmesh_user, in autocommit. Raises nothing.
    """
    try:
        _settle(_Table(session()), steps)
    except (WarehouseError, psycopg2.Error) as error:
        log.event("incidents are kept in a file", error=describe(error))
        _settle(_File(), steps)


class _File:
    """Open incidents while the database is away: only which, since their alerts are sent at once."""

    @property
    def path(self) -> Path:
        return settings().warehouse_home / "incidents.json"

    def open(self) -> dict[_Key, bool]:
        try:
            return dict.fromkeys(((kind, owner) for kind, owner in json.loads(self.path.read_text())), True)
        except (OSError, ValueError, TypeError):
            return {}

    def add(self, key: _Key, what: str) -> None:
        self._write([*self.open(), key])

    def mark_alerted(self, keys: list[_Key]) -> None:
        pass

    def close(self, key: _Key) -> None:
        self._write([other for other in self.open() if other != key])

    def _write(self, keys: list[_Key]) -> None:
        try:
            if keys:
                write_whole(self.path, json.dumps(keys))
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            print(f"warning: {self.path} cannot be written: {error}", file=sys.stderr)


class _Table:
    """ops.incidents; what was kept in the file meanwhile comes in first, as alerted."""

    def __init__(self, session: connection) -> None:
        self.session, file = session, _File()
        there = self.open()
        for key in file.open():
            if key not in there:
                self.add(key, "found while the database was away")
                self.mark_alerted([key])
            file.close(key)

    def _execute(self, statement: str, *values: object) -> list[tuple[str, str, bool]]:
        with self.session.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def open(self) -> dict[_Key, bool]:
        rows = self._execute("SELECT kind, owner, alerted_at IS NOT NULL FROM ops.incidents WHERE closed_at IS NULL")
        return {(kind, owner): alerted for kind, owner, alerted in rows}

    def add(self, key: _Key, what: str) -> None:
        self._execute(
            "INSERT INTO ops.incidents (kind, owner, what) VALUES (%s, %s, %s)"
            " ON CONFLICT (kind, owner) WHERE closed_at IS NULL DO NOTHING",
            *key,
            what,
        )

    def mark_alerted(self, keys: list[_Key]) -> None:
        for key in keys:
            self._execute(
                "UPDATE ops.incidents SET alerted_at = CLOCK_TIMESTAMP()"
                " WHERE kind = %s AND owner = %s AND closed_at IS NULL",
                *key,
            )

    def close(self, key: _Key) -> None:
        self._execute(
            "UPDATE ops.incidents SET closed_at = CLOCK_TIMESTAMP()"
            " WHERE kind = %s AND owner = %s AND closed_at IS NULL",
            *key,
        )


def _settle(store: _File | _Table, steps: dict[str, Troubles]) -> None:
    known, place = store.open(), f"warehouse on {socket.gethostname()}"
    messages: list[Message] = []
    alerted: list[_Key] = []
    for kind, found in steps.items():
        for owner, what in found.items():
            if (kind, owner) not in known:
                store.add((kind, owner), what)
                log.event("incident opened", kind=kind, owner=owner, what=what)
            if not known.get((kind, owner)):  # new, or its alert has not been delivered yet
                alerted.append((kind, owner))
                messages.append(Message(f"{place}: {kind} failed, for {owner}", what))
        for key in known:
            if key[0] == kind and key[1] not in found:
                store.close(key)
                log.event("incident closed", kind=kind, owner=key[1])
                if known[key]:  # nobody needs to hear of the end of what nobody has heard of
                    messages.append(Message(f"{place}: {kind} is well again, for {key[1]}", "It succeeded just now."))
    if send(messages):
        store.mark_alerted(alerted)


def send(messages: list[Message]) -> bool:
    """Send messages over every channel that is set, in a few seconds at most. Whether one channel took them all."""
    now = settings()
    channels: list[tuple[str, Callable[[], None]]] = []
    if messages and now.alert_webhook_url:
        webhook = now.alert_webhook_url.get_secret_value()
        channels.append(("webhook", lambda: _post(webhook, messages)))
    if messages and now.alert_smtp_url and now.alert_mail_to:
        smtp, receivers = now.alert_smtp_url.get_secret_value(), now.alert_mail_to
        sender = now.alert_mail_from or f"warehouse@{socket.getfqdn()}"
        channels.append(("mail", lambda: _mail(smtp, receivers, sender, messages)))
    return _call(channels)


def beat() -> None:
    """Tell the watchdog that all went well; it raises the alarm when it hears nothing."""
    if url := settings().heartbeat_url:
        request = urllib.request.Request(url.get_secret_value())  # noqa: S310 (settings: http or https)
        _call([("heartbeat", lambda: _open(request))])


def _call(channels: list[tuple[str, Callable[[], None]]]) -> bool:
    """Call all at the same time; whoever hangs is left behind. Whether one succeeded."""
    done: list[str] = []

    def attempt(name: str, work: Callable[[], None]) -> None:
        try:
            work()
            done.append(name)
        except Exception as error:  # any: nothing that is sent may fail a run
            _tell(name, _plain(error))

    threads = [threading.Thread(target=attempt, args=channel, daemon=True) for channel in channels]
    deadline = time.monotonic() + TIMEOUT_SECONDS + 0.5
    for thread in threads:
        thread.start()
    for thread, (name, _) in zip(threads, channels, strict=True):
        thread.join(max(0, deadline - time.monotonic()))
        if thread.is_alive():
            _tell(name, f"no answer for {TIMEOUT_SECONDS} s")
    return bool(done)


def _tell(channel: str, why: str) -> None:
    print(f"warning: {channel}: not delivered ({why})", file=sys.stderr)
    log.event("not delivered", channel=channel, why=why)


def _plain(error: Exception) -> str:
    """What went wrong, without addresses: a webhook's is a secret."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"SMTP {error.smtp_code}"
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or type(reason).__name__


def _open(request: urllib.request.Request) -> None:
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 (settings: http or https)
        answer.read(1000)


def _post(url: str, messages: list[Message]) -> None:
    """Slack's form, which Mattermost, Rocket.Chat and others read, too."""
    for message in messages:
        text = html.escape(f"{message.subject}\n{message.text}", quote=False)
        headers = {"Content-Type": "application/json"}
        _open(urllib.request.Request(url, json.dumps({"text": text}).encode(), headers))  # noqa: S310


def _mail(url: str, receivers: str, sender: str, messages: list[Message]) -> None:
    parts = urlsplit(url)
    assert parts.hostname
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    secure = ssl.create_default_context()
    if parts.scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            parts.hostname, parts.port or 465, timeout=TIMEOUT_SECONDS, context=secure
        )
    else:
        server = smtplib.SMTP(parts.hostname, parts.port or 587, timeout=TIMEOUT_SECONDS)
    with server:
        if parts.scheme == "smtp":
            server.ehlo()
            if server.has_extn("starttls"):
                server.starttls(context=secure)
            elif user:
                raise ConnectionError(errno.EPROTO, "no TLS there, and no password goes without")
        if user:
            server.login(user, password)
        for message in messages:
            mail = EmailMessage()
            mail["Subject"], mail["From"], mail["To"] = message.subject, sender, receivers
            mail["Date"], mail["Message-ID"] = formatdate(), make_msgid()
            mail.set_content(message.text)
            server.send_message(mail)
