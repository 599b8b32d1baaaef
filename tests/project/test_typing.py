"""Type checking helps authors: correct code passes, and mistakes are found in their lines."""

import re
from pathlib import Path

import pytest
from mypy_run import mypy, one_after_another

HERE = Path(__file__).parent / "typing"


pytestmark = one_after_another


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, int, str]]:
    """Return the errors of mypy: file, line, code."""
    said = mypy(tmp_path_factory.mktemp("mypy"), [HERE / "right.py", HERE / "wrong.py"], [HERE])
    found = set()
    for line in said.splitlines():
        if match := re.match(r"(.*?):(\d+): error: .*\[([a-z-]+)\]$", line):
            found.add((Path(match[1]).name, int(match[2]), match[3]))
        else:
            assert ": note: " in line, line
    return found


def expected(file: Path) -> set[tuple[str, int, str]]:
    marked = set()
    for number, line in enumerate(file.read_text().splitlines(), 1):
        _, mark, codes = line.partition("# expect: ")
        marked |= {(file.name, number, code) for code in codes.split()} if mark else set()
    return marked


def test_what_is_right_passes(errors: set[tuple[str, int, str]]) -> None:
    assert {error for error in errors if error[0] != "wrong.py"} == set()


def test_every_mistake_is_caught_where_it_stands_and_nothing_else(errors: set[tuple[str, int, str]]) -> None:
    marked = expected(HERE / "wrong.py")
    assert len(marked) > 40
    found = {error for error in errors if error[0] == "wrong.py"}
    assert sorted(marked - found) == [], "not caught"
    assert sorted(found - marked) == [], "caught, but not marked"
