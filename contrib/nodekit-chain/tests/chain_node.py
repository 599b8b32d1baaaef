"""A node with the plugin `chain`, as a node file would make it, in the process of the test."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
from local_chain import Contracts

from nodekit import Container, JobStore, Node, NodeLimits, Secret, Transport
from nodekit_chain import Chain, ChainConfig, SyncConfig, WalletConfig
from nodekit_chain.work.ledger import Ledger
from nodekit_chain.work.records import Work
from nodekit_function import Function, FunctionRunner
from nodekit_guardian import Guardian
from nodekit_memory import MemoryStore

LIMIT_SECONDS = 60.0
FAST = {"trail_head_blocks": 0, "confirmations": 2, "retry_seconds": 0.1}


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
        name: str = "node",
        **settings: Any,
    ) -> None:
        self.contracts, self.chain = contracts, contracts.chain
        self._again = {"contracts": contracts, "functions": functions, "rules": rules, "transports": transports}
        self._settings = {"wallet": wallet, "urls": urls, **settings}
        self.key = key or self.chain.new_key()[0]
        self.config = ChainConfig(
            rpc_url=tuple(urls or [self.chain.url]),
            wallet=WalletConfig(private_key=Secret(self.key), **(wallet or {})),
            snapshot_sync=SyncConfig(sync_period=0.05, sleep=0.0),
            **{"registry_address": contracts.registry.address, **FAST, **settings},
        )
        self.plugin = Chain(self.config)
        runner = FunctionRunner()
        for id, function in functions.items():
            runner.add(Container(id=id, rules=(rules or {}).get(id, {})), function)
        self.store = store or MemoryStore()
        self.node = Node(
            store=self.store,
            runners=[runner],
            transports=transports,
            plugins=[Guardian(), self.plugin],
            limits=NodeLimits(drain_seconds=0),
            name=name,
        )
        self.ledger = Ledger(self.node.storage("chain"))

    def again(self, **settings: Any) -> "ChainNode":
        """Make another node with the same account, and these other settings."""
        return ChainNode(**{**self._again, **self._settings, "key": self.key, **settings})

    @property
    def address(self) -> str:
        return self.plugin.chain_address

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        async with self.node:
            await self.ready()
            yield self

    async def ready(self) -> None:
        """Wait until the contracts are known."""
        with anyio.fail_after(LIMIT_SECONDS):
            while self.plugin._served is None:
                await anyio.sleep(0.01)

    @property
    def leads(self) -> bool:
        """True if this node is the one that watches and sends."""
        return self.plugin._served is not None and self.plugin._served.engine.leads

    async def records(self) -> list[Work]:
        return [entry.work async for entry in self.ledger.all()]

    async def until_final(self, number: int = 1) -> list[Work]:
        """Mine blocks until there are so many records, all of which are at their end."""
        return await self.until(lambda records: len(records) >= number and all(one.final for one in records))

    async def until(self, done: Callable[[list[Work]], bool]) -> list[Work]:
        """Mine blocks until the records are as expected."""
        records: list[Work] = []
        try:
            with anyio.fail_after(LIMIT_SECONDS):
                while not done(records := await self.records()):
                    self.chain.mine()
                    await anyio.sleep(0.03)
        except TimeoutError:
            shown = [(one.key, one.state, one.reason) for one in records]
            raise AssertionError(f"not as expected: {shown}; {self.plugin.nodekit_problems()}") from None
        return records

    def own_wallet(self, wei: int = 0) -> str:
        """Make a wallet of the node's account, with that much ether."""
        return self.contracts.wallet(self.address, wei).address


class Gate:
    """An endpoint before the local chain, which closes connections while it is not `open`."""

    def __init__(self, port: int) -> None:
        self._port, self.open = port, True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._connection, sock=self._listener)
        try:
            yield
        finally:
            server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self.open:
                return
            answers, questions = await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.gather(_copied(reader, questions), _copied(answers, writer))
        finally:
            writer.close()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
