"""The store `acme`: jobs in a file that only grows, for one node at a time."""

from pathlib import Path

import msgspec

from nodekit import CompositionError, EmbeddedStore, NodeFile, Offer, Problem
from nodekit_acme._table import AcmeTable

__all__ = ["AcmeConfig", "AcmeStore", "AcmeTable", "offer"]


class AcmeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the store in a node file."""

    path: Path
    """The file; relative to the node file. It is created, with mode 0600; its folder must be there."""
    synchronous: bool = True
    """Whether jobs survive a crash of the machine, too, and not of the process alone; a slow disk makes it slow."""


class AcmeStore(EmbeddedStore):
    """A `JobStore` in a file. `EmbeddedStore` has the queue, the claims and the time limits; the table keeps jobs."""

    def __init__(self, config: AcmeConfig) -> None:
        super().__init__(AcmeTable(config.path, synchronous=config.synchronous))


def from_config(config: AcmeConfig, file: NodeFile) -> AcmeStore:
    """What can be found to be wrong without acquiring anything is said here, before the node starts."""
    if not config.path.parent.is_dir():
        raise CompositionError(Problem("path", f"there is no folder {config.path.parent}; make it first"))
    return AcmeStore(config)


offer = Offer(AcmeConfig, from_config)
