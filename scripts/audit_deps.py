"""Known vulnerabilities in the locked packages, as OSV lists them (`make audit-deps`).

uv makes an environment for pip-audit that lasts for the moment: it needs packages that nothing else here does.
"""

import json
import subprocess
import sys
from pathlib import Path

from scripts.errors import Exit, WarehouseError
from scripts.settings import ROOT

LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-sample.lock", "bench/requirements.lock")

# What uv and pip-audit say when the registry or OSV is out of reach.
OUT_OF_REACH = (
    "ConnectionError",
    "ConnectTimeout",
    "ReadTimeout",
    "ServiceError",
    "network was disabled",
    "Failed to fetch",
)


def audit_deps() -> None:
    """Look up every locked package. Raises WarehouseError (DATA_QUALITY) naming each that has a known vulnerability."""
    checked, found = set(), []
    for lock in LOCKS:
        done = subprocess.run(_command(lock), cwd=ROOT, capture_output=True, text=True, check=False)
        try:
            packages = json.loads(done.stdout)["dependencies"]
        except ValueError:
            reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
            if any(words in done.stderr for words in OUT_OF_REACH):
                print(
                    f"skipped: nothing was checked, for the registry or OSV is out of reach\n  {reason}",
                    file=sys.stderr,
                )
                return
            raise WarehouseError(f"pip-audit could not check {lock}", reason, Exit.BUG) from None
        for package in packages:
            if "skip_reason" in package:
                raise WarehouseError(f"{package['name']} was not checked", package["skip_reason"], Exit.BUG)
            checked.add((package["name"], package["version"]))
            for flaw in package["vulns"]:
                fixed = ", ".join(flaw["fix_versions"]) or "no version yet"
                found.append(f"{lock}: {package['name']} {package['version']}: {flaw['id']}, fixed in {fixed}")
    if found:
        raise WarehouseError(
            f"{len(found)} known vulnerabilities",
            "\n  ".join([*sorted(found), "raise what pyproject.toml asks for, if need be, and `make lock`"]),
            Exit.DATA_QUALITY,
        )
    print(f"no known vulnerabilities in {len(checked)} packages")


def _command(lock: str) -> list[str]:
    uv, python = (str(Path(sys.prefix) / "bin" / name) for name in ("uv", "python"))
    alone = ["run", "--quiet", "--no-project", "--isolated", "--python", python, "--with", "pip-audit==2.10.1"]
    report = ["--vulnerability-service", "osv", "--format", "json", "--progress-spinner", "off"]
    return [uv, *alone, "pip-audit", "--disable-pip", "--require-hashes", *report, "--requirement", lock]
