"""Tests that choose at random make the same choices in each run."""

import ast
from collections.abc import Iterator

import chance
import pytest
from chance import FIXED_SEED, chosen_seed, given
from hypothesis import strategies as st
from paths import ROOT

THE_KITS_OWN = {"test_store_model.py", "chance.py"}
FIXED_BY_HAND = {"Random", "seed", "getstate", "setstate"}


def test_a_seed_is_always_the_same_one_unless_another_is_asked_for() -> None:
    assert [chosen_seed(text) for text in (None, "", "7")] == [FIXED_SEED, FIXED_SEED, 7]
    assert len({chosen_seed("random") for _ in range(10)}) > 1


def choices(seed: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the examples that a test is given."""
    monkeypatch.setattr(chance, "SEED", seed)
    made: list[int] = []

    @given(st.integers(), examples=20)
    def note(number: int) -> None:
        made.append(number)

    note()
    return made


def test_examples_are_those_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choices(1, monkeypatch) == choices(1, monkeypatch) != choices(2, monkeypatch)


def unseeded(source: str) -> Iterator[str]:
    """Yield the places where a module makes random choices that differ in each run."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "hypothesis":
            yield from (f"hypothesis.{name.name}" for name in node.names if name.name in ("given", "settings"))
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            yield from (f"random.{name.name}" for name in node.names if name.name != "Random")
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(id="Random") | ast.Attribute(value=ast.Name(id="random"), attr="Random") if not node.args:
                    yield "Random()"
                case ast.Attribute(value=ast.Name(id="random"), attr=name) if name not in FIXED_BY_HAND:
                    yield f"random.{name}"


@pytest.mark.parametrize(
    "source",
    [
        "from hypothesis import given",
        "from random import choice",
        "import random; random.randrange(9)",
        "import random; random.Random()",
        "from random import Random; Random()",
    ],
)
def test_choices_that_begin_nowhere_are_found(source: str) -> None:
    assert len(list(unseeded(source))) == 1


def test_no_test_makes_choices_that_begin_nowhere() -> None:
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("contrib/*/tests/*.py"), *ROOT.glob("examples/*/tests/*.py")]
    assert len(files) > 50
    sources = {file: file.read_text() for file in files if file.name not in THE_KITS_OWN}
    assert {str(file): found for file, source in sources.items() if (found := list(unseeded(source)))} == {}
