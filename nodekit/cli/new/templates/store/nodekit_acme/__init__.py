"""The store `acme`: keeps jobs in a file that only grows, for one node at a time."""

from pathlib import Path

import msgspec

from nodekit import CompositionError, EmbeddedStore, NodeFile, Problem, Provider
from nodekit_acme._table import AcmeTable

__all__ = ["AcmeConfig", "AcmeStore", "AcmeTable", "provider"]


class AcmeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the store in a node file.

    - `path`: The file, relative to the node file. It is created with mode 0600; its folder must exist.
    - `synchronous`: True: jobs also survive a crash of the machine, at the speed of the disk. False: only a crash of
      the process.
    """

    path: Path
    synchronous: bool = True


class AcmeStore(EmbeddedStore):
    """A `JobStore` in a file. `EmbeddedStore` has the queue, the claims and the time limits; the table has the jobs."""

    def __init__(self, config: AcmeConfig) -> None:
        super().__init__(AcmeTable(config.path, synchronous=config.synchronous))


def from_config(config: AcmeConfig, file: NodeFile) -> AcmeStore:
    """Build the store of a node file. Report mistakes here, before the node starts, but acquire nothing."""
    if not config.path.parent.is_dir():
        raise CompositionError(Problem("path", f"there is no folder {config.path.parent}; make it first"))
    return AcmeStore(config)


provider = Provider(AcmeConfig, from_config)
