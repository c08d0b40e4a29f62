"""The runbooks: every page that code or a page points at is there, and so is every command that they name."""

import re

import pytest
from typer.main import get_command

from scripts.__main__ import app
from scripts.settings import ROOT
from tests.python.test_readme import TARGETS

RUNBOOKS = ROOT / "docs" / "runbooks"
PAGES = sorted(RUNBOOKS.glob("*.md"))
SOURCES = [path for folder in ("scripts", "audits", "macros") for path in sorted((ROOT / folder).glob("*.*"))]


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PARTS = {path.name: anchors(path.read_text()) for path in PAGES}


def pointers(text: str) -> set[tuple[str, str]]:
    """(page, part) of everything in a source that may be printed as a pointer to a runbook."""
    text = text.replace("{RUNBOOK}", "restore.md")
    found = re.findall(r"([a-z-]+\.md)(?:#([a-z-]+))?", text)
    return {(page, part) for page, part in found if page in PARTS or part}


def test_code_points_at_what_is_there() -> None:
    found = set().union(*(pointers(path.read_text()) for path in SOURCES))
    assert len(found) > 25  # it sees them
    assert {(page, part) for page, part in found if page not in PARTS or (part and part not in PARTS[page])} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_runbook_names_what_is_there(page) -> None:  # type: ignore[no-untyped-def]
    text = page.read_text()
    for target, part in re.findall(r"\]\(([a-z-]+\.md)#([\w-]+)\)", text):
        assert part in PARTS[target], f"{target}#{part}"
    assert set(re.findall(r"(?:`|^)make\s+([a-z][a-z-]+)", text, re.MULTILINE)) <= TARGETS
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"-m scripts ([a-z-]+)", text)) <= commands
    if page.name != "README.md":
        assert f"]({page.name})" in (RUNBOOKS / "README.md").read_text(), "the index leaves it out"


def test_every_command_has_a_target() -> None:
    """`python -m scripts X` is `make X`, so that a page may name either."""
    assert set(get_command(app).commands) <= TARGETS  # type: ignore[attr-defined]
