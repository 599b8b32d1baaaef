"""Each guarantee of a cluster names the drills that tried it on an engine, and these exist."""

import ast
import re
from collections.abc import Iterator

from cluster.engines import engines
from paths import ROOT

PAGE = ROOT / "docs" / "explanation" / "cluster.md"
HEADING = "## Guarantees by failure"
PROMISES = 4
"""Number of columns before those of the engines."""
UNTRIED = "not tried"


def tables() -> Iterator[list[list[str]]]:
    """Yield the tables below the heading: rows of cells, the heads first."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n{HEADING}\n")[2].partition("\n## ")[0]
    for block in re.findall(r"(?:^\|.*\|\n)+", section, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()]
        yield [rows[0], *rows[2:]]


def defined(source: str) -> set[str]:
    """Return the names of the functions and classes of a module."""
    nodes = ast.walk(ast.parse(source))
    return {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}


def test_each_cell_of_an_engine_names_drills_or_says_that_there_are_none() -> None:
    (heads, *rows), (_, *drills) = tables()
    known, used = {name.strip("`") for name, _ in drills}, set[str]()
    assert len(rows) > 10
    for row in rows:
        assert len(row) == len(heads), row
        assert all(row), f"an empty cell: {row}"
        for cell in row[PROMISES:]:
            names = known.intersection(re.findall(r"`([^`]+)`", cell))
            assert names or cell.startswith(UNTRIED), cell
            used |= names
    assert used == known


def test_each_drill_exists() -> None:
    _, (_, *drills) = tables()
    for name, place in drills:
        path, test = re.fullmatch(r"`([^`]+)`: `([^`]+)`", place).groups()  # type: ignore[union-attr]
        assert test in defined((ROOT / path).read_text(encoding="utf-8")), f"{name}: {place}"


def test_each_engine_that_is_a_package_has_a_column() -> None:
    (heads, *_), _ = tables()
    columns = {head.lower().replace("postgresql", "postgres") for head in heads[PROMISES:]}
    assert {name for name in engines() if (ROOT / "contrib" / f"nodekit-{name}").is_dir()} <= columns
