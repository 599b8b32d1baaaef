"""A node that serves subscriptions of the local chain, in the process of the test."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from local_chain import CHAIN_ID, ETHER, Contracts

from nodekit import Container, JobStore, Node, NodeLimits
from nodekit_chain.account.fees import GWEI, FeeCaps
from nodekit_chain.account.key import AccountKey
from nodekit_chain.account.sender import AccountSender
from nodekit_chain.protocol.address import ZERO_ADDRESS
from nodekit_chain.protocol.subscription import Subscription
from nodekit_chain.rpc.endpoints import Endpoints, EndpointSettings
from nodekit_chain.watching.pipelines import PipelineTable
from nodekit_chain.watching.watcher import WatchSettings
from nodekit_chain.work.engine import Engine
from nodekit_chain.work.ledger import Ledger
from nodekit_chain.work.records import Work
from nodekit_chain.work.settings import WorkSettings
from nodekit_function import FunctionRunner
from nodekit_memory import MemoryStore

LIMIT_SECONDS = 60.0
FAST = WorkSettings(
    payment_address=ZERO_ADDRESS,
    max_gas_limit=5_000_000,
    allowed_sim_errors=(),
    confirmations=2,
    attempts=3,
    retry_seconds=0.05,
    bump_after_blocks=3,
    lease_seconds=3.0,
    keep_days=7.0,
    poll_seconds=0.05,
    json_output=False,
)
WATCH = WatchSettings(trail_head_blocks=0, starting_sub_id=0, batch_size=500, sleep_seconds=0.0)
CAPS = FeeCaps(max_fee=10**12, max_priority_fee=5 * GWEI)


class NoRules:
    """Rules that object to nothing."""

    async def objection(self, subscription: Subscription, containers: tuple[str, ...]) -> str | None:
        return None

    async def reserve(self, key: str, subscription: Subscription) -> str | None:
        return None

    async def release(self, key: str) -> None:
        pass


Function = Callable[[Any], Awaitable[Any]]


class Serving:
    """A node on the chain, and what tests ask about it. Its plugin is made here, from the parts that are tested."""

    storage_namespace = "chain"

    def __init__(
        self,
        contracts: Contracts,
        functions: Mapping[str, Function],
        *,
        key: str = "",
        store: JobStore | None = None,
        work: WorkSettings = FAST,
        watch: WatchSettings = WATCH,
        name: str = "node",
        urls: Sequence[str] = (),
        endpoints: EndpointSettings | None = None,
        **settings: Any,
    ) -> None:
        self.contracts, self.chain = contracts, contracts.chain
        self.key = key or self.chain.new_key()[0]
        self.rpc = Endpoints(urls or [self.chain.url], endpoints)
        runner = FunctionRunner()
        for id, function in functions.items():
            runner.add(Container(id=id, **settings), function)
        self.store = store or MemoryStore()
        limits = NodeLimits(drain_seconds=0)
        self.node = Node(store=self.store, runners=[runner], plugins=[self], limits=limits, name=name)
        storage = self.node.storage(self.storage_namespace)
        self.sender = AccountSender(storage, self.rpc, AccountKey.parse(self.key), CHAIN_ID, CAPS)
        self.ledger = Ledger(storage)
        self.engine = Engine(
            self.node,
            storage,
            rpc=self.rpc,
            sender=self.sender,
            rules=NoRules(),
            coordinator=contracts.coordinator.address,
            reader=contracts.reader.address,
            pipelines=PipelineTable(),
            watch=watch,
            work=work,
        )

    async def nodekit_run(self, node: Node) -> None:
        await self.engine.run()

    def nodekit_problems(self) -> Sequence[str]:
        return self.engine.problems()

    @asynccontextmanager
    async def running(self) -> "AsyncIterator[Serving]":
        async with self.rpc, self.node:
            yield self

    @property
    def requests(self) -> int:
        """Number of requests to the chain."""
        return sum(state.requests for state in self.rpc.states)

    def reorganise(self, depth: int) -> None:
        """Replace the last blocks. The account keeps its ether, although it may have got it in one of them."""
        self.chain.reorganise(depth)
        self.chain.set_balance(self.sender.address, 10 * ETHER)

    async def records(self) -> list[Work]:
        return [entry.work async for entry in self.ledger.all()]

    async def until(self, done: Callable[[list[Work]], bool], *, mining: bool = True) -> list[Work]:
        """Wait until the records are as expected. Blocks are mined meanwhile, if wanted."""
        records: list[Work] = []
        try:
            with anyio.fail_after(LIMIT_SECONDS):
                while not done(records := await self.records()):
                    if mining:
                        self.chain.mine()
                    await anyio.sleep(0.03)
        except TimeoutError:
            shown = [(one.key, one.state, one.reason) for one in records]
            raise AssertionError(f"not as expected: {shown}; {self.engine.problems()}") from None
        return records

    async def until_final(self, number: int = 1) -> list[Work]:
        return await self.until(lambda records: len(records) >= number and all(one.final for one in records))

    def transactions(self) -> list[dict[str, Any]]:
        """Return the mined transactions of the node, oldest first."""
        return self.chain.transactions_of(self.sender.address)
