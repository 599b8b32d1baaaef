"""Methods of `Path` that raise in a folder which may not be entered: a look at a path must not be a traceback."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

RAISING = {"exists", "is_file", "is_dir", "is_symlink"}
"""Before Python 3.14. Those of `os.path` answer False."""
NOT_LOOKED_AT = {"nodekit/testing", "nodekit/cli/new"}
"""Places that look at nothing of an operator: temporary folders of tests, and templates."""


def looks(folder: Path) -> Iterator[str]:
    """Yield the place of each call of such a method."""
    for file in sorted(folder.rglob("*.py")):
        if (
            any(file.is_relative_to(ROOT / place) for place in NOT_LOOKED_AT)
            or "tests" in file.parts[len(ROOT.parts) :]
        ):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr=name), args=[]) if name in RAISING:
                    yield f"{file}:{node.lineno}: {ast.unparse(node)}"
                case _:
                    pass


@pytest.mark.parametrize("place", ["nodekit", "plugins", "contrib"])
def test_a_path_of_an_operator_is_looked_at_without_raising(place: str) -> None:
    advice = "use os.path.exists, isfile, isdir or islink, and folder_problem for a text:\n"
    assert not (found := list(looks(ROOT / place))), advice + "\n".join(found)


def test_a_look_that_may_raise_is_found(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text("if path.parent.is_dir():\n    pass\n", encoding="utf-8")
    assert [one.rpartition(": ")[2] for one in looks(tmp_path)] == ["path.parent.is_dir()"]
