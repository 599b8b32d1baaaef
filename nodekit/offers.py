"""Names that installed packages put forward, read from metadata; a package is imported only when its offer is used."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from nodekit._rules import nearest
from nodekit.errors import NodekitError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Kind: TypeAlias = Literal["store", "runner", "transport", "pipeline", "plugin"]

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


def offered(kind: Kind) -> "Mapping[str, list[EntryPoint]]":
    """Who offers what, by name; more than one under a name is a clash."""
    from importlib.metadata import entry_points  # a third of the time of `import nodekit`, were it at the top

    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=f"nodekit.{kind}s"):
        found.setdefault(entry.name, []).append(entry)
    return found


def load_offer(kind: Kind, name: str) -> Offer[Any]:
    """Import the one offer of that name. Raises `NodekitError` where there is none, several, or a broken one."""
    found = offered(kind)
    entries = found.get(name, [])
    if not entries:
        known = ", ".join(sorted(found)) or "none"
        raise NodekitError(f"unknown {kind} {name!r}; known: {known}{nearest(name, found)}")
    if len(entries) > 1:
        owners = ", ".join(sorted(owner(entry) for entry in entries))
        raise NodekitError(f"{kind} {name!r} is offered by several distributions ({owners}); uninstall all but one")
    try:
        offer = entries[0].load()
    except Exception as error:
        raise NodekitError(
            f"{kind} {name!r} of {owner(entries[0])} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(offer, Offer):
        raise NodekitError(f"{kind} {name!r} of {owner(entries[0])}: {entries[0].value} is not an Offer")
    return offer  # pyright: ignore[reportUnknownVariableType]


def owner(entry: "EntryPoint") -> str:
    """The distribution that has it, and its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
