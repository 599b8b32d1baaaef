"""The table of what a job may cost, `bounds.txt`: text in columns, so that a commit shows what has changed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
FILE = HERE / "bounds.txt"
FIGURES = ("calls", "callbacks", "tasks", "wake-ups", "statements", "commits", "cycles", "system calls")
HEAD = """\
# What one job costs on Python 3.11, counted in the process of the node: `python tests/performance --write` writes this.
#
# calls         of functions, of Python and of C
# callbacks     that the event loop has run
# tasks         that were created
# wake-ups      of the event loop by other threads
# statements    of SQL
# commits       of SQLite
# cycles        objects that only Python's collector frees
# system calls  but for those of threads that wait for each other, and of memory
"""
MARGIN, BUSY_MARGIN = 0.05, 0.6
"""Parts of a figure by which it may be larger: other versions of libraries; and a busy machine in `margin`."""
SLACK = {
    "calls": 5.0,
    "callbacks": 0.5,
    "tasks": 0.0,
    "wake-ups": 0.1,
    "statements": 0.2,
    "commits": 0.15,
    "cycles": 0.5,
    "system calls": 2.0,
}
"""Allowance for chance: how many writes happen to share a commit, and how many bytes a socket has at once."""

BUSY_SLACK = SLACK | {"callbacks": 8.0, "statements": 0.8, "commits": 0.3, "cycles": 10.0, "system calls": 12.0}
"""The same together with `BUSY_MARGIN`: a connection that is closed leaves cycles, and a write may share less."""

Figures = dict[str, float]


class Place(NamedTuple):
    """Parts of the node that runs the jobs: a store, and a server or `none`."""

    store: str
    server: str


PLACES = (
    Place("memory", "none"),
    Place("memory", "uvicorn"),
    Place("sqlite", "none"),
    Place("sqlite", "uvicorn"),
    Place("sqlite", "hypercorn"),
)
Table = dict[tuple[Place, str], Figures]
"""Figures by place and shape of work."""


def counted(place: Place) -> dict[str, Figures]:
    """Return what a job costs now, by shape. Without strace there are no `system calls`."""
    command = [sys.executable, str(HERE / "counted.py"), *place]
    found: dict[str, Figures] = json.loads(
        subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=300).stdout
    )
    return found


def least(place: Place, times: int) -> dict[str, Figures]:
    """Return the least figures of several processes: a busy machine can make one take a longer way."""
    runs = [counted(place) for _ in range(times)]
    return {
        shape: {name: min(run[shape][name] for run in runs) for name in figures} for shape, figures in runs[0].items()
    }


def margin(place: Place, shape: str) -> float:
    """Return the margin of a place and a shape.

    Many calls at once are many connections. If a busy machine lets the container answer none of the new ones for some
    milliseconds, the node closes others, and opens them again. Writes share statements as far as they come together.
    """
    return BUSY_MARGIN if shape.startswith("batch") and place != Place("memory", "none") else MARGIN


def excess(figures: Figures, bounds: Figures, margin: float = MARGIN) -> list[str]:
    """Return what is above its bound, in words."""
    slack = BUSY_SLACK if margin == BUSY_MARGIN else SLACK
    return [
        f"{name}: {value:g} per job, {bounds[name]:g} expected"
        for name, value in figures.items()
        if value > bounds[name] * (1 + margin) + slack[name]
    ]


def written(table: Table) -> str:
    """Return the table as text."""
    lines = [HEAD, f"{'store':8}{'server':11}{'shape':14}" + "".join(f"{name:>14}" for name in FIGURES)]
    for (place, shape), figures in table.items():
        values = "".join(f"{figures[name]:14.2f}" for name in FIGURES)
        lines.append(f"{place.store:8}{place.server:11}{shape:14}{values}")
    return "\n".join(lines) + "\n"


def read(text: str) -> Table:
    """Return the table of a text."""
    table: Table = {}
    for line in text.splitlines():
        if line and not line.startswith(("#", "store ")):
            place = Place(line[:8].strip(), line[8:19].strip())
            table[place, line[19:33].strip()] = dict(zip(FIGURES, map(float, line[33:].split()), strict=True))
    return table
