"""Names that installed packages put forward, read from metadata; a package is imported only when its offer is used."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from nodekit._rules import nearest
from nodekit.errors import NodekitError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Kind: TypeAlias = Literal["store", "runner", "transport", "pipeline", "plugin"]

T = TypeVar("T")
ConfigT = TypeVar("ConfigT", bound=msgspec.Struct)


class NodeFile(msgspec.Struct, frozen=True):
    """Where a part's settings come from."""

    path: Path
    node: str
    """The node's name, see `node_name`."""

    @property
    def folder(self) -> Path:
        """What relative paths in the file are relative to."""
        return self.path.parent


class Offer(Generic[ConfigT]):
    """A part or plugin that a node file can name: an entry point of the group ``nodekit.<kind>s`` points to it.

    `config` is the Struct of its table; fields of type `Path` and `Secret` are resolved against the node file.
    `build` makes the part from it and must acquire nothing.
    `container` is, for a runner, the Struct of an entry of its `containers`; for a plugin, the rules that it reads
    from containers.
    """

    def __init__(
        self,
        config: type[ConfigT],
        build: Callable[[ConfigT, NodeFile], Any],
        *,
        container: type[msgspec.Struct] | None = None,
    ) -> None:
        self.config = config
        self.build = build
        self.container = container


def offered(kind: Kind | Literal["format"]) -> "Mapping[str, list[EntryPoint]]":
    """Who offers what, by name; more than one under a name is a clash."""
    from importlib.metadata import entry_points  # a third of the time of `import nodekit`, were it at the top

    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=f"nodekit.{kind}s"):
        found.setdefault(entry.name, []).append(entry)
    return found


def load_offer(kind: Kind, name: str) -> Offer[Any]:
    """Import the one offer of that name. Raises `NodekitError` where there is none, several, or a broken one."""
    found = offered(kind)
    if name not in found:
        known = ", ".join(sorted(found)) or "none"
        raise NodekitError(f"unknown {kind} {name!r}; known: {known}{nearest(name, found)}")
    return load_only(found[name], Offer, f"{kind} {name!r}")  # pyright: ignore[reportUnknownVariableType]


def load_only(entries: "Sequence[EntryPoint]", expected: type[T], called: str) -> T:
    """Import what the one entry point of a name points to. Raises `NodekitError` where there are several."""
    if len(entries) > 1:
        owners = ", ".join(sorted(owner(entry) for entry in entries))
        raise NodekitError(f"{called} is offered by several distributions ({owners}); uninstall all but one")
    (entry,) = entries
    try:
        found = entry.load()
    except Exception as error:
        raise NodekitError(f"{called} of {owner(entry)} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, expected):
        article = "an" if expected.__name__[0] in "AEIOU" else "a"
        raise NodekitError(f"{called} of {owner(entry)}: {entry.value} is not {article} {expected.__name__}")
    return found


def owner(entry: "EntryPoint") -> str:
    """The distribution that has it, and its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
