"""*Run in production* treats each reason that `/health` may give, and no other."""

import ast
import re

import pytest
from paths import ROOT
from reasons import GAP, reasons, reasons_of

PAGE = ROOT / "docs" / "how-to" / "run-in-production.md"
HEADING = "## What to do with each reason"
PARTS = {
    "ahead of",
    "of an unknown version",
    "; restart in … s",
    "restart in … s",
    ", …",
    "delete something, or keep fewer finished jobs",
    "the table of jobs",
    "a page",
    "a page that new jobs need",
    "a page with finished jobs, which cannot be deleted,",
    "a part that each job needs",
    "the list of free pages",
    "a call to … broke off, and it does not answer",
    "no block was seen yet",
    "the last block was seen … s ago",
}
"""Texts that come only within another reason."""


def treated() -> set[str]:
    """Return the reasons in the first cells of the page's tables; `…` stands for a value."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n{HEADING}\n")[2]
    cells = re.findall(r"^\| (`.*?) \| .* \|$", section, re.MULTILINE)
    return {text for cell in cells for text in re.findall(r"`([^`]+)`", cell)}


def written(text: str) -> str:
    """Return a reason of the source as the page writes it."""
    return re.sub("…+", "…", text.replace(GAP, "…"))


def covers(on_page: str, text: str) -> bool:
    """Return True if the page means this reason. A `…` at the end stands for all that follows, such as an error."""
    return on_page in (text, f"{text}: …") or (on_page[-1] == "…" and text.startswith(on_page[:-1]))


def untreated(found: dict[str, str]) -> dict[str, str]:
    return {
        text: place
        for text, place in ((written(text), place) for text, place in found.items())
        if text not in PARTS and not any(covers(one, text) for one in treated())
    }


def test_each_reason_in_the_source_is_on_the_page() -> None:
    found = reasons()
    assert len(found) > 30
    assert untreated(found) == {}


def test_each_reason_on_the_page_is_in_the_source() -> None:
    found = [written(text) for text in reasons()]
    assert len(treated()) > 30
    assert [one for one in treated() if not any(covers(one, text) for text in found)] == []
    assert [part for part in PARTS if part not in found] == []


@pytest.mark.parametrize(
    "source",
    [
        "def diagnosis():\n    fatal.append('the moon is full')",
        "class A:\n    def nodekit_problems(self):\n        return [f'the moon is full since {self.day}']",
        "class A:\n    def problems(self):\n        yield self.a()\n    def a(_):\n        return 'the moon is full'",
        "MOON = 'the moon is full'\ndef diagnosis():\n    fatal.append(MOON)",
        "def save(self):\n    self._problems['moon'] = f'the moon is full: {why}'",
        "def save(self):\n    text = f'the moon is full: {why}'\n    self._problem = text",
        "def save(self):\n    self.trouble.happened(f'the moon is full: {why}')",
        "async def watch(self):\n    await self._attempt('moon', 'the moon is full', look, None)",
        "async def look(self):\n    raise EngineGone('the moon is full')",
    ],
)
def test_a_new_reason_is_noticed(source: str) -> None:
    found = {text: "planted" for text, _ in reasons_of("planted.py", ast.parse(source))}
    assert [text[:16] for text in untreated(found)] == ["the moon is full"]
