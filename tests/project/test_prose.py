"""Docstrings are plain English: none opens with a question."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

QUESTIONS = {"What", "Whether", "Who", "Whose", "How", "Of", "As", "Where", "Which", "When", "With", "Why"}
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


def questions(folder: Path) -> Iterator[str]:
    """Yield the place of each docstring that opens with a question word."""
    for file in sorted(folder.rglob("*.py")):
        for line, text in docstrings(ast.parse(file.read_text(encoding="utf-8"))):
            if text.split()[:1] and text.split()[0].rstrip(",:;.") in QUESTIONS:
                yield f"{file}:{line}: {text.strip().splitlines()[0]}"


@pytest.mark.parametrize("place", PLACES)
def test_no_docstring_opens_with_a_question(place: str) -> None:
    advice = "open with a verb, or with a noun for a thing:\n"
    assert not (found := list(questions(ROOT / place))), advice + "\n".join(found)


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
