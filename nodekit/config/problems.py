"""Problems of a node file: their order, and those of components that were built without faulty keys."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nodekit.config.convert import Converted, mentions
from nodekit.errors import Problem


def position(problem: Problem, places: Mapping[str, int]) -> tuple[int, ...]:
    """Return the position of a problem in the file: its top table, and the numbers of component and container."""
    table = re.split(r"[.\[]", problem.where, maxsplit=1)[0]
    numbers = map(int, re.findall(r"\[([0-9]{1,9})\]", problem.where)[:2])
    return (places.get(table, len(places)), *numbers)


def prefixes(where: str) -> Iterator[str]:
    """Yield a key path, and those of the tables and lists that it lies in."""
    return (where[: found.start()] for found in re.finditer(r"[.\[]|$", where))


def enumerated(key: str, items: Sequence[Any]) -> list[tuple[str, Any]]:
    """Return the items of a list, each with its key path."""
    return [(f"{key}[{number}]", item) for number, item in enumerate(items)]


def renumbered(problem: Problem, places: Sequence[int]) -> Problem:
    """Return a problem of containers that a runner was built from with the numbers that they have in the file."""
    found = re.match(r"containers\[(\d+)\]", problem.where)
    if found is None or int(found[1]) >= len(places):
        return problem
    return Problem(f"containers[{places[int(found[1])]}]{problem.where[found.end() :]}", problem.text)


def is_certain(problem: Problem, made: Converted, containers: Sequence[Converted]) -> bool:
    """Return True if a problem of a component that was built without faulty keys is not the consequence of these."""
    found = re.match(r"containers\[(\d+)\]", problem.where)
    if found and int(found[1]) < len(containers):
        return not mentions(problem, containers[int(found[1])].faulty)
    return bool(problem.where) and not mentions(problem, made.faulty)
