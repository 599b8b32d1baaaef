"""Prose is plain English: no docstring opens with a question, and no text speaks of its authors."""

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from paths import ROOT

QUESTIONS = {"What", "Whether", "Who", "Whose", "How", "Of", "As", "Where", "Which", "When", "With", "Why"}
FIRST_PERSON = re.compile(r"\b(we|us|our|ours|ourselves)\b", re.IGNORECASE)
PLACES = ("nodekit", "plugins", "contrib", "examples", "tests", "benchmarks")


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield docstrings of modules, classes, functions and attributes, each with its line."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            for one in statements if isinstance(statements, list) else ():
                if (
                    isinstance(one, ast.Expr)
                    and isinstance(one.value, ast.Constant)
                    and isinstance(one.value.value, str)
                ):
                    yield one.lineno, one.value.value


@cache
def docstrings_below(folder: Path) -> Sequence[tuple[str, int, str]]:
    """Return the docstrings of all files below a folder, each with its file and line."""
    files = {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("*.py"))}
    return [(str(file), line, text) for file, tree in files.items() for line, text in docstrings(tree)]


def questions(folder: Path) -> Iterator[str]:
    """Yield the place of each docstring that opens with a question word."""
    for file, line, text in docstrings_below(folder):
        if text.split()[:1] and text.split()[0].rstrip(",:;.") in QUESTIONS:
            yield f"{file}:{line}: {text.strip().splitlines()[0]}"


@pytest.mark.parametrize("place", PLACES)
def test_no_docstring_opens_with_a_question(place: str) -> None:
    advice = "open with a verb, or with a noun for a thing:\n"
    assert not (found := list(questions(ROOT / place))), advice + "\n".join(found)


def below_fields(folder: Path) -> Iterator[str]:
    """Yield the place of each docstring below a field of a Struct. `help()` does not show it there."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Struct") for base in node.bases):
                for field, below in pairwise(node.body):
                    if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                        yield f"{file}:{below.lineno}"


@pytest.mark.parametrize("place", ["nodekit", "plugins", "contrib", "examples"])
def test_fields_are_documented_where_help_shows_it(place: str) -> None:
    advice = "write it into the docstring of the class, as an item: - `field`: Text.\n"
    assert not (found := list(below_fields(ROOT / place))), advice + "\n".join(found)


def test_a_docstring_below_a_field_is_found(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text('class A(msgspec.Struct):\n    b: int\n    """B."""\n', encoding="utf-8")
    assert len(list(below_fields(tmp_path))) == 1


@pytest.mark.parametrize(
    "code",
    [
        '"""What it is."""',
        'def f():\n    """Whether it is so."""',
        'class A:\n    b: int = 0\n    """How many."""',
        'class A:\n    """As the other."""',
        'if True:\n    a = 1\nelse:\n    a = 2\n    """Of which there are two."""',
    ],
)
def test_one_that_does_is_found(tmp_path: Path, code: str) -> None:
    (tmp_path / "planted.py").write_text(code, encoding="utf-8")
    assert len(list(questions(tmp_path))) == 1


def of_us(place: str, first: int, text: str) -> Iterator[str]:
    """Yield the place of each line that speaks of those who wrote it: nobody knows who that is."""
    for number, line in enumerate(text.splitlines(), first):
        if FIRST_PERSON.search(line):
            yield f"{place}:{number}: {line.strip()}"


@pytest.mark.parametrize("place", PLACES)
def test_no_docstring_speaks_of_us(place: str) -> None:
    found = [line for one in docstrings_below(ROOT / place) for line in of_us(*one)]
    assert not found, 'name the thing: "the node", "nodekit", "these tests":\n' + "\n".join(found)


def test_no_page_speaks_of_us() -> None:
    pages = [
        *ROOT.glob("*.md"),
        *(file for place in (*PLACES, "docs", "deploy") for file in (ROOT / place).rglob("*.md")),
    ]
    found = [line for file in pages for line in of_us(str(file), 1, file.read_text(encoding="utf-8"))]
    assert not found, 'name the thing: "the node", "nodekit", "these tests":\n' + "\n".join(found)


@pytest.mark.parametrize("text", ["What we take", "One of ours.", "Our own.", "a\nlet us see"])
def test_a_text_that_does_is_found(text: str) -> None:
    assert len(list(of_us("page.md", 1, text))) == 1
    assert not list(of_us("page.md", 1, "Use the houses of the week; 5 µs."))
