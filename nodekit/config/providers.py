"""Providers of installed packages, by name, read from metadata. A package is imported only if its provider is used."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, get_args

import msgspec

from nodekit.config.api_version import API_VERSION, api_problem
from nodekit.config.distributions import entry_points, fault, name_of
from nodekit.config.distributions import owner as owner
from nodekit.config.failures import described
from nodekit.errors import NodekitError
from nodekit.hooks.container_rules import nearest
from nodekit.interfaces.pipeline import BUILT_IN

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Kind: TypeAlias = Literal["store", "runner", "transport", "pipeline", "plugin"]

ELSEWHERE: Mapping[tuple[Kind, str], str] = {
    ("plugin", "chain"): "nodekit-chain",
    ("plugin", "metrics"): "nodekit-metrics",
    ("store", "postgres"): "nodekit-postgres",
    ("store", "redis"): "nodekit-redis",
}
"""Distributions of this project that are installed on their own, by the kind and name of what they provide."""

T = TypeVar("T")
ConfigT = TypeVar("ConfigT", bound=msgspec.Struct)


class NodeFile(msgspec.Struct, frozen=True):
    """The source of a component's settings.

    - `node`: Name of the node, see `node_name`.
    """

    path: Path
    node: str

    @property
    def folder(self) -> Path:
        """Folder that relative paths in the file refer to."""
        return self.path.parent


class Provider(Generic[ConfigT]):
    """A provider: a component or plugin that a node file can name, by an entry point of the group ``nodekit.<kind>s``.

    `config` is the Struct of its table, or `msgspec.Struct` itself if there are no settings. Fields of type `Path` and
    `Secret` are resolved against the node file. `build` makes the component from it and must acquire nothing. For a
    runner, `container` is the Struct of an entry of its `containers`; for a plugin, the rules that it reads from
    containers. `api` is the version of the plugin API that the package was written for: the `nodekit.API_VERSION` of
    that time. It is the oldest one with everything the package uses. An older nodekit then reports the mismatch instead
    of failing later.
    """

    def __init__(
        self,
        config: type[ConfigT],
        build: Callable[[ConfigT, NodeFile], Any],
        *,
        container: type[msgspec.Struct] | None = None,
        api: str = API_VERSION,
    ) -> None:
        self.config = config
        self.build = build
        self.container = container
        self.api = api


def provided(kind: Kind | Literal["format"]) -> "Mapping[str, list[EntryPoint]]":
    """Return the entry points by name. More than one under a name is a clash."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(f"nodekit.{kind}s"):
        found.setdefault(entry.name, []).append(entry)
    return found


def table_of(kind: Kind) -> str:
    """Return the header of a kind's table in a node file."""
    return "[store]" if kind == "store" else f"[[{kind}s]]"


def load_provider(kind: Kind, name: str) -> Provider[Any]:
    """Import the one provider of that name. Raise `NodekitError` if there is none, several, or a broken one."""
    found = provided(kind)
    if kind == "pipeline" and name == BUILT_IN:
        others = "".join(
            f"; {owner(entry)} has to register its own under another name" for entry in found.get(name, ())
        )
        raise NodekitError(f"pipeline {name!r} is built into every node; remove this table{others}")
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise NodekitError(f"unknown {kind} {name!r}; known: {known}{_cure(kind, name, found)}")
    return load_only(found[name], Provider, f"{kind} {name!r}")  # pyright: ignore[reportUnknownVariableType]


def _cure(kind: Kind, name: str, known: "Mapping[str, Sequence[EntryPoint]]") -> str:
    """Return the cure for a name that no installed package provides: another table, or a package to install."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    others: list[Kind] = [one for one in kinds if one != kind and (name in provided(one) or (one, name) in ELSEWHERE)]
    texts = [f"{name!r} is a {one}, not a {kind}: write it under {table_of(one)}" for one in others]
    missing: list[Kind] = [one for one in (kind, *others) if (one, name) in ELSEWHERE and name not in provided(one)]
    texts += [f"pip install {ELSEWHERE[one, name]}" for one in missing]
    return "".join(f"; {text}" for text in texts) or nearest(name, known)


def load_only(entries: "Sequence[EntryPoint]", expected: type[T], called: str) -> T:
    """Import the target of a name's one entry point. Raise `NodekitError` if there are several."""
    if len(entries) > 1:
        owners = ", ".join(sorted(owner(entry) for entry in entries))
        raise NodekitError(f"{called} is provided by several distributions ({owners}); uninstall all but one")
    (entry,) = entries
    found = load(entry, called)
    if not isinstance(found, expected):
        article = "an" if expected.__name__[0] in "AEIOU" else "a"
        raise NodekitError(f"{called} of {owner(entry)}: {entry.value} is not {article} {expected.__name__}")
    _check_api(found, entry, called)
    return found


def _check_api(found: object, entry: "EntryPoint", called: str) -> None:
    if isinstance(found, Provider) and (problem := api_problem(found.api, name_of(entry.dist) or "the package")):
        raise NodekitError(f"{called} of {owner(entry)} {problem}")


def load(entry: "EntryPoint", called: str) -> Any:
    """Import the entry point's target. Raise `NodekitError` for any failure of the package, `sys.exit` included."""
    if text := fault(entry):
        raise NodekitError(f"{called} of {owner(entry)}: {text}")
    try:
        return entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise NodekitError(described(error, f"{called} of {owner(entry)} cannot be imported")) from error
