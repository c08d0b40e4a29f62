"""What the README and the Makefile say is true: files, models, commands, links."""

import re
import subprocess

import pytest

from scripts.settings import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "docs" / "llms.txt",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "seeds" / "README.md",
    ROOT / "bench" / "README.md",
]
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
MODELS = {f"{path.relative_to(ROOT / 'models').parts[0]}.{path.stem}" for path in (ROOT / "models").rglob("*.*")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_what_exists(page) -> None:  # type: ignore[no-untyped-def]
    text = page.read_text()
    commands = set(re.findall(r"^(?:`|\$ )?make ([a-z-]+)|`make ([a-z-]+)", text, re.MULTILINE))
    assert {name for pair in commands for name in pair if name} <= TARGETS
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / link).exists(), link
    for path in re.findall(
        r"`((?:config|models|contracts|macros|scripts|tests|docs|linter|materializations|seeds)/[\w./*]+)`", text
    ):
        assert list(ROOT.glob(path.rstrip("/"))), path
    named = set(re.findall(r"(?<!/)\b((?:staging|marts|ml|seeds)\.[a-z_]{4,})\b", text))
    assert {name for name in named if not name.endswith("_")} <= MODELS


def test_help_lists_every_command() -> None:
    help_text = subprocess.run(["make"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert set(re.findall(r"^  ([a-z-]+) ", help_text, re.MULTILINE)) == TARGETS


def test_a_command_without_its_folder_says_so() -> None:
    done = subprocess.run(["make", "load"], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode
    assert "which folder? make load DROP=folder" in done.stderr


def test_every_setting_is_in_the_example() -> None:
    from scripts.settings import Settings

    example = (ROOT / ".env.example").read_text()
    hidden = {"WAREHOUSE_EMBEDDED"}  # made by `make env`, not for people
    for name in Settings.model_fields:
        assert name.upper() in example or name.upper() in hidden


def test_lock_files_name_no_host() -> None:
    for lock in [*ROOT.glob("requirements*.lock"), ROOT / "bench" / "requirements.lock"]:
        text = lock.read_text()
        assert "://" not in text
        assert "--hash=sha256:" in text
