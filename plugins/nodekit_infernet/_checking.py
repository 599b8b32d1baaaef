"""The check of a translation: whatever would be refused, all of it at once, and with the keys of ``config.json``."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any

from nodekit import CompositionError, NodeTables, Problem, load_node
from nodekit_infernet._draft import Draft
from nodekit_infernet._writing import text_of, write_new

MOST_ROUNDS = 8
"""Number of times that a file is composed: each time without the settings that were wrong before."""
ENOUGH = 100
"""Number of problems that commands show at most."""

_CONTAINER = re.compile(r"runners\[(\d+)\]\.containers\[(\d+)\]\.(\w+)")


def all_problems(draft: Draft) -> list[Problem]:
    """Return the problems of the file, and everything else for which its node file would be refused."""
    return list(_first_of_each_place((*draft.problems, *refusals(draft))))


def refusals(draft: Draft) -> Sequence[Problem]:
    """Compose the node file that this draft gives, in a folder of its own. Return why it is refused.

    Nothing is started. Raise `OSError` if there is no room for such a folder.
    """
    tables, found = draft.tables, list[Problem]()
    for _ in range(MOST_ROUNDS if len(draft.problems) < ENOUGH else 1):
        refused = _refused(draft, tables)
        found += NodeTables(tables, origins=draft.origins).in_the_file(CompositionError(refused)).problems
        wrong = [match for one in refused if (match := _CONTAINER.match(one.where))]
        if not wrong or len(found) > ENOUGH:
            break
        tables = _without(tables, wrong)
    return found


def _without(tables: Mapping[str, Any], wrong: Iterable[re.Match[str]]) -> dict[str, Any]:
    """Return the tables with harmless settings in place of wrong ones, which keep further problems from view."""
    runners = [{**runner, "containers": [*runner["containers"]]} for runner in tables["runners"]]
    for runner, number, key in ((int(match[1]), int(match[2]), match[3]) for match in wrong):
        containers = runners[runner]["containers"]
        harmless = {"id": f"checked-{runner}-{number}", "image": "none", "url": "http://none"}
        rest = {name: value for name, value in containers[number].items() if name != key}
        containers[number] = rest | {name: harmless[name] for name in (key,) if name in harmless}
    return {**tables, "runners": runners}


def _refused(draft: Draft, tables: Mapping[str, Any]) -> Sequence[Problem]:
    """Compose these tables. Secrets are variables of this process meanwhile, so that none of them is on a disk."""
    secrets = {where: one.secret.reveal() for where, one in draft.references.items()}
    with TemporaryDirectory(prefix="nodekit-") as name, _variables({*secrets.values()}) as variables:
        folder = Path(name)
        places = {where: {"env": variables[text]} for where, text in secrets.items()}
        for where, text in secrets.items():
            if "\0" in text:  # which no variable can hold, and no secret has
                places[where] = {"file": "nul"}
        write_new(folder / "nul", "\0.")
        write_new(file := folder / "node.toml", text_of(tables, draft, places))
        try:
            load_node(file)
        except CompositionError as error:
            return [_of_the_config(problem, file, draft.read.path) for problem in error.problems]
    return ()


@contextmanager
def _variables(texts: Iterable[str]) -> Iterator[dict[str, str]]:
    """Set a variable of the environment for each text, for a moment. Yield their names, by text."""
    named = {text: f"NODEKIT_CHECKED_{token_hex(8)}" for text in texts}
    try:
        os.environ.update({name: text.replace("\0", "") for text, name in named.items()})
        yield named
    finally:
        for name in named.values():
            os.environ.pop(name, None)


def _of_the_config(problem: Problem, file: Path, path: Path) -> Problem:
    if problem.where == str(file):
        return Problem(str(path), f"gives a node file that {problem.text}")
    return problem


def _first_of_each_place(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield no problem that another one at the same place, or around it, has caused."""
    places = set[str]()
    for problem in problems:
        where = problem.where
        around = {where[: match.start()] for match in re.finditer(r"[.\[]", where)} | {where}
        if places.isdisjoint(around):
            places.add(where)
            yield problem
