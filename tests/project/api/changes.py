"""Differences between two surfaces, and the actions that they require.

The rule: the changelog names each line that differs in backticks, below ``### Plugin API`` of the newest version. For a
new member of a new object, the name of the object is enough. A change that can break a plugin also needs a new major
version.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
CHANGELOG = FOLDER.parents[2] / "CHANGELOG.md"
HEADING = "### Plugin API"

_LINE = re.compile(r"([\w -]+) `([^`]+)` ?(.*)")
_CALLS = ("method", "function", "protocol-method", "hook")


class Change(NamedTuple):
    name: str
    kind: str
    before: str | None
    """The line; None if there was none."""
    after: str | None

    @property
    def breaks(self) -> bool:
        """Return True if a plugin, a node file or a script may work before the change and not after it."""
        if self.before is None or self.after is None:
            return self.after is None or _is_required(self.kind, self.after)
        return not _is_wider(self.kind, _what(self.before), _what(self.after))

    def __str__(self) -> str:
        return "\n".join([f"  - {self.before}"] * bool(self.before) + [f"  + {self.after}"] * bool(self.after))


def changes(before: Iterable[str], after: Iterable[str]) -> list[Change]:
    """Return the changes in the order of their names."""
    old, new = _by_place(before), _by_place(after)
    differing = sorted(place for place in old.keys() | new.keys() if old.get(place) != new.get(place))
    return [Change(name, kind, old.get((name, kind)), new.get((name, kind))) for name, kind in differing]


def unsettled(found: Sequence[Change], *, baseline: "Baseline", api: str, changelog: str) -> Iterator[str]:
    """Yield the required actions, a paragraph each."""
    newest, named = newest_version(changelog), named_in(changelog)
    added = {change.name for change in found if change.before is None}
    old = {name for name, _ in _by_place(baseline.lines)}
    for change in found:
        if change.breaks and _major(api) == _major(baseline.api):
            yield (
                f"{change}\n  this breaks plugins that rely on it: keep what there was, with a "
                f"PluginDeprecationWarning; only plugin API {_major(api) + 1}.0 may do without it"
            )
        owners = {change.name, *(above for above in _above(change.name) if above in added and above not in old)}
        if not owners & named:
            yield f"{change}\n  add a line with `{change.name}` below {HEADING!r} of version {newest} in CHANGELOG.md"
    if found and api == baseline.api and newest != baseline.release:
        major, _, minor = api.partition(".")
        yield (
            f"plugin API {api} is that of release {baseline.release}, and has changed since: "
            f'in nodekit/config/api_version.py, write API_VERSION = "{major}.{int(minor) + 1}"'
        )


def _is_required(kind: str, added: str) -> bool:
    """Return True if existing implementations lack the new member."""
    return kind.startswith("protocol-") or (kind in ("key", "field") and " = " not in added)


def _is_wider(kind: str, before: str, after: str) -> bool:
    """Return True if old uses still work: a default changed, or new arguments are optional."""
    if kind in ("key", "field", "event", "option", "constant", "attribute"):
        return before.partition(" = ")[0] == after.partition(" = ")[0] and " = " in after
    if kind not in _CALLS:
        return False
    (colour, taken, gives), (new_colour, now_taken, now_gives) = _call(before), _call(after)
    if (colour, gives) != (new_colour, now_gives):
        return False
    if kind == "hook":  # plugins take only the arguments that they want
        return set(taken) <= set(now_taken)
    kept = [one for one in now_taken if one in taken or one == "*"]
    more = [one for one in now_taken if one not in taken and one != "*"]
    return [one for one in kept if one != "*"] == [one for one in taken if one != "*"] and all(" = " in m for m in more)


def _call(what: str) -> tuple[str, list[str], str]:
    """Return `async` or nothing, the parameters and the result of a signature."""
    colour, _, rest = what.partition("(")
    inside, _, gives = rest.rpartition(")") if " -> " not in rest else _split_result(rest)
    return colour, _parameters(inside), gives


def _split_result(rest: str) -> tuple[str, str, str]:
    depth = 1
    for position, letter in enumerate(rest):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(letter, 0)
        if depth == 0:
            return rest[:position], "", rest[position + 1 :]
    return rest, "", ""


def _parameters(inside: str) -> list[str]:
    found, depth = [""], 0
    for letter in inside:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [one.strip() for one in found if one.strip()]


def _what(text: str) -> str:
    return _parsed(text)[2]


def _by_place(lines: Iterable[str]) -> dict[tuple[str, str], str]:
    """Return lines by name and kind, as a name may be of two kinds."""
    return {(name, kind): text for text in lines for kind, name, _ in [_parsed(text)]}


def _parsed(text: str) -> tuple[str, str, str]:
    found = _LINE.fullmatch(text)
    assert found, text
    return found[1], found[2], found[3]


def _above(name: str) -> list[str]:
    """`nodekit.Node.find` → `nodekit.Node`, `nodekit`; of a command, the commands that it belongs to."""
    return [name[: found.start()] for found in re.finditer(r"[. ]", name)][::-1]


def _major(version: str) -> int:
    return int(version.partition(".")[0])


# -- the changelog and the baselines --------------------------------------------------------------


def newest_version(changelog: str) -> str:
    found = re.search(r"^## \[([^]]+)\]", changelog, re.MULTILINE)
    assert found, "CHANGELOG.md has no version"
    return found[1]


def named_in(changelog: str) -> set[str]:
    """Return the names in backticks in the section about the plugin API of the newest version."""
    newest = re.split(r"^## ", changelog, flags=re.MULTILINE)[1]
    section = re.search(rf"^{HEADING}$(.*?)(?=^### |\Z)", newest, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`]+)`", section[1])) if section else set()


class Baseline(NamedTuple):
    """The surface of a release."""

    api: str
    release: str
    lines: list[str]


def newest_baseline(folder: Path = FOLDER) -> Baseline:
    path = max(folder.glob("*.txt"), key=lambda path: [int(number) for number in path.stem.split(".")])
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    return Baseline(path.stem, head.rpartition(" ")[2], lines)


def write_baseline(baseline: Baseline, folder: Path = FOLDER) -> Path:
    path = folder / f"{baseline.api}.txt"
    head = f"# plugin API {baseline.api}, written by `make api` for release {baseline.release}"
    path.write_text("\n".join([head, *baseline.lines, ""]), encoding="utf-8")
    return path
