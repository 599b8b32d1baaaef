"""Time and chance in nodekit are those that a node was given. A seed then repeats a run of a whole cluster."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_rules import within
from paths import ROOT

READ_THE_SYSTEM = {
    "time": "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns clock_gettime clock_gettime_ns localtime "
    "gmtime",
    "datetime.datetime": "now utcnow today",
    "datetime.date": "today",
    "uuid": "uuid1 uuid4",
    "os": "urandom getrandom",
}
FORBIDDEN = {f"{module}.{name}" for module, names in READ_THE_SYSTEM.items() for name in names.split()}
WHOLE = ("secrets", "random")
"""Modules of which nothing may be used, except `random.Random`, made with a seed."""

MAY = {
    "nodekit.model.clock": "`SystemClock` is the clock of the machine",
    "nodekit.cli": "commands run on a machine, for a person",
    "nodekit.testing.clock": "`VirtualClock` moves the machine's",
    "nodekit.testing.contracts": "suites run beside stores and nodes of any kind, on the machine",
    "nodekit.testing.builders.jobs": "jobs of tests are new, for whatever store",
    "nodekit.testing.leaks.loop_watch": "it measures how long the machine was busy",
    "nodekit.testing.store_model": "it compares any store with a model, on the machine",
}
"""Modules that may ask the system, and why."""

SEEDED_BY_THE_SYSTEM = {"nodekit.node.node", "nodekit.model.ids", "nodekit.testing.shared_store.engine"}
"""Modules with a parameter `random`, whose default is a `Random()`."""


def origins(tree: ast.Module) -> dict[str, str]:
    """Return the dotted names of what a module imports, by their names there."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def dotted(node: ast.AST, known: dict[str, str]) -> str | None:
    """Return the dotted name of an expression, or None if it is none of an import."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute) and (value := dotted(node.value, known)) is not None:
        return f"{value}.{node.attr}"
    return None


def asked(tree: ast.Module) -> Iterator[str]:
    """Yield what a module uses of the system's time and chance."""
    known = origins(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func, known) == "random.Random" and not node.args:
            yield "random.Random()"
        if isinstance(node, ast.Name | ast.Attribute) and (name := dotted(node, known)) is not None:
            of_whole = name != "random.Random" and any(within(name, one) and name != one for one in WHOLE)
            if name in FORBIDDEN or of_whole:
                yield name


def used(root: Path) -> dict[str, set[str]]:
    """Return what each module of nodekit uses of the system's time and chance."""
    files = {".".join(file.relative_to(root).with_suffix("").parts): file for file in (root / "nodekit").rglob("*.py")}
    return {module: set(asked(ast.parse(file.read_text()))) for module, file in files.items()}


def violations(uses: dict[str, set[str]]) -> list[str]:
    return [
        f"{module} uses {name}: take it from the clock or the random of the node"
        for module, names in uses.items()
        for name in sorted(names - ({"random.Random()"} if module in SEEDED_BY_THE_SYSTEM else set()))
        if not any(within(module, one) for one in MAY)
    ]


def test_nothing_asks_the_system_for_the_time_or_for_chance() -> None:
    assert violations(used(ROOT)) == []


def test_who_may_do_so_does() -> None:
    uses = used(ROOT)
    for one in MAY.keys() - {"nodekit.testing.clock"}:  # that one takes the functions by their names
        assert any(names for module, names in uses.items() if within(module, one)), one
    for one in SEEDED_BY_THE_SYSTEM:
        assert uses[one] == {"random.Random()"}


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("import time\ntime.time()", "time.time"),
        ("import time\ndef f(now=time.monotonic_ns): ...", "time.monotonic_ns"),
        ("import time as t\nt.perf_counter()", "time.perf_counter"),
        ("from time import monotonic as now\nnow()", "time.monotonic"),
        ("def f():\n    from time import time_ns\n    return time_ns()", "time.time_ns"),
        ("import datetime\ndatetime.datetime.now()", "datetime.datetime.now"),
        ("from datetime import datetime\ndatetime.now()", "datetime.datetime.now"),
        ("import random\nrandom.random()", "random.random"),
        ("from random import shuffle\nshuffle([])", "random.shuffle"),
        ("from random import SystemRandom\nSystemRandom()", "random.SystemRandom"),
        ("from random import Random\nRandom()", "random.Random()"),
        ("import random\nrandom.Random().random()", "random.Random()"),
        ("from uuid import uuid4\nuuid4()", "uuid.uuid4"),
        ("import uuid\nuuid.uuid4().hex", "uuid.uuid4"),
        ("import os\nos.urandom(8)", "os.urandom"),
        ("import secrets\nsecrets.token_hex()", "secrets.token_hex"),
        ("from secrets import randbits\nrandbits(8)", "secrets.randbits"),
    ],
)
def test_what_is_planted_is_found(lines: str, name: str) -> None:
    source = (ROOT / "nodekit/node/waiters.py").read_text()
    found = violations({"nodekit.node.waiters": set(asked(ast.parse(f"{source}\n{lines}\n")))})
    assert found == [f"nodekit.node.waiters uses {name}: take it from the clock or the random of the node"]


@pytest.mark.parametrize(
    "lines",
    [
        "from random import Random\nRandom(5).random()",
        "from nodekit.config import secrets\nsecrets.Secret",
        "import time\ntime.sleep",
        "import uuid\nuuid.UUID(int=1)",
        "def f(clock, random):\n    return clock.time(), random.random()",
    ],
)
def test_what_is_given_is_no_violation(lines: str) -> None:
    assert list(asked(ast.parse(lines))) == []
