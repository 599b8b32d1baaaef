"""A node that serves subscriptions of the local chain, in the process of the test."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from independent import Account
from local_chain import CHAIN_ID, ETHER, CallFailed, Contracts, LocalChain

from nodekit import Container, JobStore, Node
from nodekit_chain.protocol.subscription import Subscription
from nodekit_chain.rpc.questions import Question, Refused
from nodekit_chain.watching.pipelines import PipelineTable
from nodekit_chain.watching.watcher import WatchSettings
from nodekit_chain.work.engine import Contracts as Addresses
from nodekit_chain.work.engine import Engine
from nodekit_chain.work.ledger import Entry, Ledger
from nodekit_chain.work.records import Work
from nodekit_chain.work.seams import Keep, SignedTransaction, Transaction
from nodekit_chain.work.settings import WorkSettings
from nodekit_function import FunctionRunner
from nodekit_memory import MemoryStore

LIMIT_SECONDS = 60.0
FAST = WorkSettings(poll_seconds=0.05, retry_seconds=0.05, confirmations=2, lease_seconds=3.0)


class CountedRpc:
    """An RPC that asks the local chain, and counts the requests."""

    def __init__(self, chain: LocalChain) -> None:
        self.chain, self.requests, self.fails = chain, 0, False

    async def batch(self, questions: Sequence[Question]) -> list[Any | Refused]:
        self.requests += 1
        return [self._ask(question) for question in questions]

    def _ask(self, question: Question) -> Any:
        try:
            return self.chain.rpc(question.method, *question.params)
        except CallFailed as error:
            return Refused(str(error), data=error.data)


class PlainSender:
    """An account that signs by an independent library."""

    def __init__(self, rpc: CountedRpc, key: str) -> None:
        self._rpc, self._key = rpc, key
        self.address = Account.from_key(key).address.lower()
        self._next = 0
        self._lock = anyio.Lock()

    async def begin(self, first_nonce: int) -> None:
        self._next = first_nonce

    async def send(self, transaction: Transaction, keep: Keep) -> SignedTransaction:
        async with self._lock:
            [count] = await self._rpc.batch([Question("eth_getTransactionCount", (self.address, "latest"))])
            nonce = max(self._next, int(count, 16))
            signed = self._signed(transaction, nonce, 10**10, 10**9)
            await keep(signed)
            self._next = nonce + 1
            await self._rpc.batch([Question("eth_sendRawTransaction", (f"0x{signed.raw.hex()}",))])
            return signed

    async def replace(self, transaction: Transaction, old: SignedTransaction, keep: Keep) -> SignedTransaction:
        signed = self._signed(transaction, old.nonce, old.max_fee * 5 // 4, old.priority_fee * 5 // 4)
        await keep(signed)
        await self._rpc.batch([Question("eth_sendRawTransaction", (f"0x{signed.raw.hex()}",))])
        return signed

    def _signed(self, transaction: Transaction, nonce: int, max_fee: int, priority_fee: int) -> SignedTransaction:
        fields = {
            "type": 2,
            "chainId": CHAIN_ID,
            "nonce": nonce,
            "to": Account.from_key(self._key).address if transaction.to == self.address else _checksum(transaction.to),
            "data": transaction.data,
            "gas": transaction.gas,
            "value": transaction.value,
            "maxFeePerGas": max_fee,
            "maxPriorityFeePerGas": priority_fee,
        }
        made = Account.sign_transaction(fields, self._key)
        return SignedTransaction(
            nonce=nonce,
            hash="0x" + bytes(made.hash).hex(),
            raw=bytes(made.raw_transaction),
            gas=transaction.gas,
            max_fee=max_fee,
            priority_fee=priority_fee,
        )


def _checksum(address: str) -> str:
    from nodekit_chain.protocol.address import checksum_address

    return checksum_address(address)


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
        watch: WatchSettings | None = None,
        name: str = "node",
        **settings: Any,
    ) -> None:
        self.contracts, self.chain = contracts, contracts.chain
        self.key = key or self.chain.new_key()[0]
        self.rpc = CountedRpc(self.chain)
        self.sender = PlainSender(self.rpc, self.key)
        runner = FunctionRunner()
        for id, function in functions.items():
            runner.add(Container(id=id, **settings), function)
        self.store = store or MemoryStore()
        self.node = Node(store=self.store, runners=[runner], plugins=[self], name=name)
        self.ledger = Ledger(self.node.storage(self.storage_namespace))
        self.engine = Engine(
            self.node,
            self.node.storage(self.storage_namespace),
            rpc=self.rpc,
            sender=self.sender,
            rules=NoRules(),
            contracts=Addresses(contracts.coordinator.address, contracts.reader.address),
            pipelines=PipelineTable(),
            watch=watch or WatchSettings(trail_head_blocks=0, sleep_seconds=0.0),
            work=work,
        )

    async def nodekit_run(self, node: Node) -> None:
        await self.engine.run()

    def nodekit_problems(self) -> Sequence[str]:
        return self.engine.problems()

    @asynccontextmanager
    async def running(self) -> "AsyncIterator[Serving]":
        async with self.node:
            yield self

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


def entry_of(entries: Sequence[Entry], id: int) -> Entry:
    return next(entry for entry in entries if entry.work.id == id)
