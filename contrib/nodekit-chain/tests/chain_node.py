"""A node with the plugin `chain`, as a node file would make it, in the process of the test."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
from local_chain import Contracts

from nodekit import Container, JobStore, Node, Secret, Transport
from nodekit_chain import Chain, ChainConfig, SyncConfig, WalletConfig
from nodekit_chain.work.ledger import Ledger
from nodekit_chain.work.records import Work
from nodekit_function import Function, FunctionRunner
from nodekit_guardian import Guardian
from nodekit_memory import MemoryStore

LIMIT_SECONDS = 60.0


class ChainNode:
    """A node that serves the local chain with the real plugin."""

    def __init__(
        self,
        contracts: Contracts,
        functions: Mapping[str, Function],
        *,
        rules: Mapping[str, Mapping[str, Any]] | None = None,
        key: str = "",
        store: JobStore | None = None,
        transports: Sequence[Transport] = (),
        wallet: Mapping[str, Any] | None = None,
        urls: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.contracts, self.chain = contracts, contracts.chain
        self.key = key or self.chain.new_key()[0]
        self.config = ChainConfig(
            rpc_url=tuple(urls or [self.chain.url]),
            registry_address=contracts.registry.address,
            wallet=WalletConfig(private_key=Secret(self.key), **(wallet or {})),
            snapshot_sync=SyncConfig(sync_period=0.05, sleep=0.0),
            **{"trail_head_blocks": 0, "confirmations": 2, "retry_seconds": 0.1, **settings},
        )
        self.plugin = Chain(self.config)
        runner = FunctionRunner()
        for id, function in functions.items():
            runner.add(Container(id=id, rules=(rules or {}).get(id, {})), function)
        self.store = store or MemoryStore()
        self.node = Node(store=self.store, runners=[runner], transports=transports, plugins=[Guardian(), self.plugin])
        self.ledger = Ledger(self.node.storage("chain"))

    @property
    def address(self) -> str:
        return self.plugin.chain_address

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        async with self.node:
            with anyio.fail_after(LIMIT_SECONDS):
                while self.plugin._served is None:
                    await anyio.sleep(0.01)
            yield self

    async def records(self) -> list[Work]:
        return [entry.work async for entry in self.ledger.all()]

    async def until_final(self, number: int = 1) -> list[Work]:
        """Mine blocks until there are so many records, all of which are at their end."""
        records: list[Work] = []
        try:
            with anyio.fail_after(LIMIT_SECONDS):
                while len(records := await self.records()) < number or not all(one.final for one in records):
                    self.chain.mine()
                    await anyio.sleep(0.03)
        except TimeoutError:
            shown = [(one.key, one.state, one.reason) for one in records]
            raise AssertionError(f"not as expected: {shown}; {self.plugin.nodekit_problems()}") from None
        return records

    def own_wallet(self, wei: int = 0) -> str:
        """Make a wallet of the node's account, with that much ether."""
        return self.contracts.wallet(self.address, wei).address
