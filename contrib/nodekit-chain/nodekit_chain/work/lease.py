"""The lease that makes one node of a cluster the one that watches and sends."""

from uuid import uuid4

import msgspec

from nodekit import Node, PluginStorage, StoreFailed, VersionConflict

KEY = "lease"


class Holding(msgspec.Struct, frozen=True):
    """The record of a lease. `until` is the Unix time, on the clock of the jobs, at which it ends by itself."""

    holder: str
    node: str
    until: float


class Lease:
    """The lease of one incarnation of a node.

    It saves work and requests. Correctness does not rest on it: each change of a record and each nonce has a condition,
    so that a node which believes wrongly that it holds the lease cannot send a second transaction.
    """

    def __init__(self, node: Node, storage: PluginStorage, seconds: float) -> None:
        self._node, self._storage, self._seconds = node, storage, seconds
        self._holder = uuid4().hex
        self._held: Holding | None = None

    @property
    def held(self) -> bool:
        """True if the lease is this node's, and has not run out."""
        return self._held is not None and self._node.now() < self._held.until

    async def take(self) -> bool:
        """Take or extend the lease. Return False if another node has it, or the store fails."""
        try:
            record = await self._storage.get(KEY)
            present = None if record is None else msgspec.json.decode(record.value, type=Holding)
            now = self._node.now()
            foreign = present is not None and present.holder != self._holder and now < present.until
            if foreign and await self._node.members():  # on a store of its own, it was an earlier life of this node
                self._held = None
                return False
            holding = Holding(self._holder, self._node.name, now + self._seconds)
            expect = 0 if record is None else record.version
            await self._storage.put(KEY, msgspec.json.encode(holding), expect=expect)
        except VersionConflict:  # another node has taken it, also if it has not run out on the clock of this one
            self._held = None
            return False
        except StoreFailed:
            return self.held
        self._held = holding
        return True

    async def leave(self) -> None:
        """Give the lease back, so that another node need not wait."""
        if self._held is None:
            return
        try:
            record = await self._storage.get(KEY)
            if record is not None and msgspec.json.decode(record.value, type=Holding).holder == self._holder:
                await self._storage.delete(KEY, expect=record.version)
        except (StoreFailed, VersionConflict):
            pass  # it runs out
        self._held = None
