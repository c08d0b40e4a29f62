"""What `make audit-deps` says of what pip-audit found, and when nobody could be asked."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from scripts import audit_deps
from scripts.errors import Exit, WarehouseError
from scripts.settings import ROOT

GOOD: dict[str, Any] = {"name": "typer", "version": "0.29.2", "vulns": []}
BAD: dict[str, Any] = {
    "name": "sqlglot", "version": "30.8.0",
    "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["30.8.1"]}, {"id": "PYSEC-2026-2", "fix_versions": []}],
}  # fmt: skip


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_to(stdout: str, stderr: str = "", code: int = 0) -> None:
        done = subprocess.CompletedProcess([], code, stdout, stderr)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)

    return set_to


def test_packages_without_a_flaw(answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answer(json.dumps({"dependencies": [GOOD]}))
    audit_deps.audit_deps()
    assert capsys.readouterr().out == "no known vulnerabilities in 1 packages\n"


def test_each_flaw_is_named_with_its_remedy(answer: Any) -> None:
    answer(json.dumps({"dependencies": [GOOD, BAD]}), code=1)
    with pytest.raises(WarehouseError, match=f"{2 * len(audit_deps.LOCKS)} known vulnerabilities") as caught:
        audit_deps.audit_deps()
    assert caught.value.code == Exit.DATA_QUALITY
    assert "bench/requirements.lock: sqlglot 30.8.0: PYSEC-2026-1, fixed in 30.8.1" in caught.value.hint
    assert "PYSEC-2026-2, fixed in no version yet" in caught.value.hint and "typer" not in caught.value.hint


def test_a_package_that_was_not_checked_is_no_success(answer: Any) -> None:
    answer(json.dumps({"dependencies": [{"name": "typer", "skip_reason": "not found"}]}))
    with pytest.raises(WarehouseError, match="typer was not checked"):
        audit_deps.audit_deps()


def test_another_fault_is_no_success(answer: Any) -> None:
    answer("", "Traceback\nKeyError: 'x'", 1)
    with pytest.raises(WarehouseError, match="could not check requirements.lock"):
        audit_deps.audit_deps()


@pytest.mark.slow
def test_without_a_network_it_says_that_it_checked_nothing() -> None:
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy"), "http://127.0.0.1:1")
    command = [sys.executable, "-m", "scripts", "audit-deps"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **nowhere, "NO_PROXY": "", "no_proxy": "", "UV_HTTP_RETRIES": "0"},
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("skipped: nothing was checked") and done.stdout == ""
