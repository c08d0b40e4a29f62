"""Alerts reach whom the settings name, tell no secret, and cost a run a few seconds at most, whatever is down."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from scripts import alerts, log
from scripts.errors import Failure, WarehouseError
from scripts.settings import settings
from tests.python.conftest import forget_caches

NEWS = [alerts.Message("warehouse on here: run failed, for sales", "marts.daily_revenue: <none> & nothing")]

Configure = Callable[..., None]


@pytest.fixture
def configure(environment: pytest.MonkeyPatch) -> Configure:
    """Sets variables, and reads the settings anew."""

    def set_(**values: str) -> None:
        for name, value in values.items():
            environment.setenv(name, value)
        forget_caches()

    environment.setattr(alerts, "TIMEOUT_SECONDS", 1)
    return set_


@pytest.fixture
def web() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A web server: its address, and what was asked of it. /hang never answers, /drip answers for ever, /500 fails."""
    asked: list[tuple[str, str]] = []
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            asked.append((self.path, body))
            if self.path == "/hang":
                closing.wait(20)
            elif self.path == "/drip":
                self.send_response(200)
                self.flush_headers()
                while not closing.wait(0.2):
                    self.wfile.write(b"X-More: yes\r\n")
            else:
                self.send_response(int(self.path[1:]) if self.path[1:].isdigit() else 200)
                self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    closing.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def smtp() -> Iterator[tuple[int, list[str]]]:
    """A mail server without TLS, for mails one after the other: its port, and the lines it was told."""
    told: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        session, _ = listener.accept()
        with session, session.makefile("rw", newline="\r\n") as stream:
            answers = {"EHLO": "250 here", "DATA": "354 go on", "QUIT": "221 bye"}
            print("220 here", file=stream, flush=True)
            is_data = False
            for line in stream:
                told.append(line.strip())
                is_data = (is_data or told[-1] == "data") and told[-1] != "."
                if not is_data or told[-1] == "data":
                    print(answers.get(told[-1][:4].upper(), "250 well"), file=stream, flush=True)

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1], told
    listener.close()


def test_nothing_is_sent_where_nothing_is_set(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("it called out"))
    assert alerts.send(NEWS) is False
    alerts.beat()


def test_a_webhook_gets_what_slack_reads(configure: Configure, web: tuple[str, list[tuple[str, str]]]) -> None:
    address, asked = web
    configure(ALERT_WEBHOOK_URL=f"{address}/services/T0/secret")
    assert alerts.send([]) is False and asked == []
    assert alerts.send(NEWS) is True
    [(path, body)] = asked
    assert path == "/services/T0/secret"
    assert json.loads(body) == {
        "text": "warehouse on here: run failed, for sales\nmarts.daily_revenue: &lt;none&gt; &amp; nothing"
    }


def test_the_watchdog_is_called(configure: Configure, web: tuple[str, list[tuple[str, str]]]) -> None:
    configure(HEARTBEAT_URL=f"{web[0]}/ping")
    alerts.beat()
    assert web[1] == [("/ping", "")]


def test_a_mail_goes_to_all(configure: Configure, smtp: tuple[int, list[str]]) -> None:
    port, told = smtp
    configure(
        ALERT_SMTP_URL=f"smtp://127.0.0.1:{port}", ALERT_MAIL_TO="a@example.com, b@example.com",
        ALERT_MAIL_FROM="w@example.com",
    )  # fmt: skip
    assert alerts.send(NEWS) is True
    assert [line for line in told if line.startswith("rcpt")] == ["rcpt TO:<a@example.com>", "rcpt TO:<b@example.com>"]
    assert "Subject: warehouse on here: run failed, for sales" in told
    assert "marts.daily_revenue: <none> & nothing" in told


def test_a_password_goes_nowhere_without_tls(
    configure: Configure, smtp: tuple[int, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    port, told = smtp
    configure(ALERT_SMTP_URL=f"smtp://me:hunter2@127.0.0.1:{port}", ALERT_MAIL_TO="a@example.com")
    assert alerts.send(NEWS) is False
    assert "mail: not delivered (no TLS there, and no password goes without)" in capsys.readouterr().err
    assert not any("AUTH" in line.upper() or line.startswith("mail") for line in told)


@pytest.mark.parametrize("path", ["/hang", "/drip", "/500", "/404"])
def test_a_webhook_that_fails_or_hangs_costs_its_time_and_no_more(
    configure: Configure, web: tuple[str, list[tuple[str, str]]], capsys: pytest.CaptureFixture[str], path: str
) -> None:
    configure(ALERT_WEBHOOK_URL=web[0] + path, HEARTBEAT_URL=web[0] + path)
    began = time.monotonic()
    assert alerts.send(NEWS * 3) is False
    alerts.beat()
    assert time.monotonic() - began < 4
    told = capsys.readouterr().err
    assert told.count("not delivered") == 2 and path not in told


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/secret", "http://no.such.host.invalid/secret", "http://127.0.0.1/a b\tsecret"]
)
def test_an_outage_is_told_without_the_secret(
    configure: Configure, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(log, "event", lambda name, **values: logged.append(f"{name} {values}"))
    configure(
        ALERT_WEBHOOK_URL=url, ALERT_SMTP_URL="smtp://me:secret@127.0.0.1:9", ALERT_MAIL_TO="a@b.de", HEARTBEAT_URL=url
    )
    assert alerts.send(NEWS) is False
    alerts.beat()
    told = capsys.readouterr().err
    assert told.count("not delivered") == 3
    assert "secret" not in told + str(logged) + repr(settings()) + str(settings())


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALERT_WEBHOOK_URL", "file:///secret"), ("HEARTBEAT_URL", "secret"), ("ALERT_SMTP_URL", "https://a:secret@b")],
)
def test_a_wrong_address_is_refused_without_being_shown(configure: Configure, name: str, value: str) -> None:
    configure(**{name: value})
    with pytest.raises(WarehouseError, match=f"{name}=") as refusal:
        settings()
    assert "secret" not in str(refusal.value)


def test_models_that_failed_are_told_to_their_owners() -> None:
    error = WarehouseError("the run did not finish", "see logs/")
    assert alerts.troubles(error) == {"operator": "the run did not finish\n  see logs/"}
    error.failures = [
        Failure("marts.a", "sales", "x"),
        Failure("ml.b", "science", "y"),
        Failure("marts.c", "sales", "z"),
    ]
    assert alerts.troubles(error) == {"sales": "marts.a: x\nmarts.c: z", "science": "ml.b: y"}
    assert alerts.troubles(KeyError("key")) == {"operator": "KeyError: 'key'"}
