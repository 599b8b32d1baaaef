"""The next nonce of the account, stored together with the transaction that takes one."""

from collections.abc import Awaitable, Callable, Sequence

import anyio

from nodekit import PluginStorage, Write
from nodekit_chain.protocol.address import Address
from nodekit_chain.work.ledger import Entry


class Nonces:
    """The record of the account's next nonce. Two nodes that sign at the same time never both store a transaction."""

    def __init__(self, storage: PluginStorage, account: Address) -> None:
        self._storage, self._key = storage, f"nonce/{account}"
        self._lock = anyio.Lock()
        self.next = 0
        self._version = 0

    async def read(self) -> None:
        """Read the record."""
        record = await self._storage.get(self._key)
        self.next, self._version = (0, 0) if record is None else (int(record.value), record.version)

    async def keep(self, nonce: int, change: Callable[[Sequence[Write]], Awaitable[Entry]]) -> None:
        """Store a transaction by `change`, and its nonce with it. Raise what `change` raises."""
        async with self._lock:
            if nonce < self.next:  # another version of a transaction that is stored
                await change(())
                return
            try:
                await change([Write(self._key, str(nonce + 1).encode(), self._version)])
            finally:
                await self.read()
