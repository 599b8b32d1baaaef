"""The watch: new blocks, forks, and the subscriptions in them. One request while nothing happens, two with a block."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any, cast

import anyio
import msgspec

from nodekit import NodekitError
from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.calls import UnreadableReply
from nodekit_chain.protocol.contracts import Coordinator, Reader
from nodekit_chain.protocol.subscription import Subscription
from nodekit_chain.rpc.questions import EndpointFault, Question, Refused, Rpc, call, result, result_bytes, shown
from nodekit_chain.watching.blocks import WINDOW, Block, BlockWindow
from nodekit_chain.watching.catalogue import Catalogue

logger = logging.getLogger("nodekit.chain")

MOST_LOG_BLOCKS = 1000
"""Number of blocks whose logs are asked for at once. After more, all subscriptions are read again."""
COMPARED = 32
"""Number of hashes that are compared in one request when a fork is followed back."""


class WatchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the watch. `ChainConfig` has their defaults.

    - `trail_head_blocks`: Number of blocks by which the watch stays behind the newest one.
    - `starting_sub_id`: Subscriptions up to this id are not looked at.
    - `batch_size`: Number of subscriptions that one request reads.
    - `sleep_seconds`: Pause between two such requests.
    """

    trail_head_blocks: int
    starting_sub_id: int
    batch_size: int
    sleep_seconds: float


class OtherChain(NodekitError):
    """The endpoints serve another chain than the one that was followed before."""

    def __init__(self, sign: str) -> None:
        cure = "give the node a new store, or correct rpc_url"
        super().__init__(f"this is another chain than before, or it was started afresh ({sign}); {cure}")


class View(msgspec.Struct, frozen=True):
    """The chain at one moment.

    - `latest`: Newest block; calls and transactions refer to it.
    - `trail`: Block in which subscriptions were read.
    - `fork`: Number of the last common block, if blocks above it have left the chain; else None.
    """

    latest: Block
    trail: Block
    fork: int | None = None

    def after(self, undone: "View | None") -> "View":
        """Return this view, with the fork of an earlier one that nobody has worked with."""
        forks = [view.fork for view in (self, undone) if view is not None and view.fork is not None]
        return msgspec.structs.replace(self, fork=min(forks, default=None))


class Watcher:
    """The subscriptions of one coordinator, read block by block into a `catalogue`."""

    def __init__(
        self,
        rpc: Rpc,
        coordinator: Address,
        reader: Address,
        settings: WatchSettings,
        *,
        genesis: str = "",
        newest: int = 0,
    ) -> None:
        """Follow the chain whose block 0 has the hash `genesis`, and which has had `newest` blocks; "": any chain."""
        self._rpc, self._coordinator, self._reader, self._settings = rpc, coordinator, reader, settings
        self.genesis, self._newest = genesis, newest
        self.catalogue = self._reading = Catalogue()
        self._unread: set[int] = set()
        """Subscriptions that no endpoint could read. They are tried again with each block."""
        self.head_id = settings.starting_sub_id
        """Newest id that was read."""
        self.view: View | None = None
        self._window, self._read_to = BlockWindow(), -1
        self._fork: int | None = None
        """Last common block of a fork that no view has told of yet."""

    async def look(self) -> View | None:
        """Look at the newest block. Return the view if it is a new one, with all its subscriptions read.

        Raise a `NodekitError` if the endpoints fail, and `OtherChain`. Then nothing is lost: the next call begins at
        the same place.
        """
        (reply,) = await self._rpc.batch([Question("eth_getBlockByNumber", ("latest", False))])
        latest = Block.newest(reply)
        if self.view is not None and latest.hash == self.view.latest.hash:
            return None
        return await self._follow(latest)

    async def _follow(self, latest: Block) -> View | None:
        trail_number = max(0, latest.number - self._settings.trail_head_blocks)
        known = self._window.at_most(trail_number)
        if known is not None and trail_number - known > MOST_LOG_BLOCKS:
            self._begin_anew()
            known = None
        if known is None or latest.number < self._newest:
            await self._check_chain(latest)
        replies = await self._rpc.batch(questions := self._questions(known, trail_number))
        before = Block.of(result(replies[1]))
        if known is not None and (before is None or before.hash != self._window.hashes[known]):
            known = await self._unwind(latest)
            replies = await self._rpc.batch(questions := self._questions(known, trail_number))
        elif trail_number < self._window.newest:
            return None  # an endpoint that is behind the one before
        if (trail := Block.of(result(replies[0]))) is None:
            raise NodekitError(f"the RPC endpoint has no block {trail_number}, but named block {latest.number}")
        await self._read_changes(questions, replies, trail)
        self._window.add(trail)
        self.catalogue, self._newest = self._reading, latest.number
        self.view, self._fork = View(latest, trail, self._fork), None
        return self.view

    async def _check_chain(self, latest: Block) -> None:
        """Raise `OtherChain` if the newest block cannot be of the chain that was followed before."""
        (reply,) = await self._rpc.batch([Question("eth_getBlockByNumber", ("0x0", False))])
        first = None if isinstance(reply, Refused) else Block.of(reply)
        if first is not None and first.number == 0:  # else the endpoint does not know that block any more
            if self.genesis not in ("", first.hash):
                raise OtherChain(f"block 0 was {self.genesis}, and is {first.hash}")
            self.genesis = first.hash
        if latest.number < self._newest - WINDOW:
            raise OtherChain(f"block {self._newest} was seen, and the newest is {latest.number}")

    def _questions(self, known: int | None, trail: int) -> list[Question]:
        """Return the questions for the blocks after `known`, the newest one that was looked at."""
        first = trail + 1 if known is None else known + 1
        cancelled = {
            "address": self._coordinator,
            "topics": [f"0x{Coordinator.cancelled.topic.hex()}"],
            "fromBlock": hex(first),
            "toBlock": hex(trail),
        }
        return [
            Question("eth_getBlockByNumber", (hex(trail), False)),
            Question("eth_getBlockByNumber", (hex(trail if known is None else known), False)),
            call(self._coordinator, Coordinator.id.encode(), trail),
            *([Question("eth_getLogs", (cancelled,))] if first <= trail else []),
        ]

    # -- subscriptions ----------------------------------------------------------------------------

    async def _read_changes(self, questions: Sequence[Question], replies: Sequence[Any], trail: Block) -> None:
        head = Coordinator.id.decode_one(result_bytes(replies[2])) - 1
        try:
            logs = await self._logs(replies[3], questions[3]) if len(replies) > 3 else []
        except (Refused, EndpointFault) as refused:  # even of a single block: no block may hold up those after it
            logger.warning("all subscriptions are read again, since logs are refused: %s", refused)
            logs, self._reading, self.head_id = [], Catalogue(), self._settings.starting_sub_id
        await self._read_rows([range(id, id + 1) for id in sorted(self._unread) if id <= head], trail.number)
        await self._read(range(self.head_id + 1, head + 1), trail.number)
        for log in logs:
            self._cancelled(log)
        self._read_to = self.catalogue.read_to = max(self._read_to, trail.number)

    async def _logs(self, reply: Any, question: Question) -> list[Any]:
        """Return logs. Where an endpoint refuses those of many blocks at once, it is asked for each half of them."""
        query = question.params[0]
        first, last = int(query["fromBlock"], 16), int(query["toBlock"], 16)
        if not isinstance(reply, Refused) or first == last:
            if not isinstance(found := result(reply), list):
                raise UnreadableReply(f"expected logs, received {shown(found)}")
            return cast(list[object], found)
        middle = (first + last) // 2
        parts = ((first, middle), (middle + 1, last))
        halves = [
            Question("eth_getLogs", (query | {"fromBlock": hex(start), "toBlock": hex(end)},)) for start, end in parts
        ]
        replies = zip(await self._rpc.batch(halves), halves, strict=True)
        return [log for one, half in replies for log in await self._logs(one, half)]

    def _cancelled(self, log: Any) -> None:
        try:
            topics = [bytes.fromhex(topic[2:]) for topic in log["topics"]]
            (id,) = Coordinator.cancelled.decode(topics, b"")
            self._reading.cancel(id, int(log["blockNumber"], 16))
        except (NodekitError, LookupError, TypeError, ValueError):
            logger.warning("a log of the coordinator cannot be understood and is left out: %s", str(log)[:300])

    async def _read(self, ids: range, block: int) -> None:
        size = self._settings.batch_size
        for start in range(ids.start, ids.stop, size):
            if start > ids.start:
                await anyio.sleep(self._settings.sleep_seconds)
            await self._read_rows([range(start, min(start + size, ids.stop))], block)
            self.head_id = min(start + size, ids.stop) - 1

    async def _read_rows(self, ranges: Sequence[range], block: int) -> None:
        """Read subscriptions; ranges that are refused or make no sense in halves, and at last one by one."""
        while ranges:
            data = [Reader.read_subscription_batch.encode(ids.start, ids.stop) for ids in ranges]
            replies = await self._rpc.batch([call(self._reader, one, block) for one in data])
            halves: list[range] = []
            for ids, reply in zip(ranges, replies, strict=True):
                try:
                    subscriptions = _subscriptions(reply, len(ids))
                except (Refused, EndpointFault, UnreadableReply, TypeError, ValueError) as error:
                    middle = len(ids) // 2
                    halves += [ids[:middle], ids[middle:]] if middle else []
                    if not middle:
                        self._set_aside(ids.start, error)
                else:
                    self._unread.difference_update(ids)
                    for id, subscription in zip(ids, subscriptions, strict=True):
                        self._reading.add(id, subscription, block)
            ranges = halves

    def _set_aside(self, id: int, error: Exception) -> None:
        if isinstance(error, EndpointFault):
            self._unread.add(id)
        else:
            logger.warning("subscription %d cannot be understood and is set aside: %s", id, error)
        self._reading.unread(id, f"it cannot be understood: {error}")

    # -- forks ------------------------------------------------------------------------------------

    async def _unwind(self, latest: Block) -> int | None:
        """Go back to the last block that the chain still has, and return its number; None: all is read again."""
        common = await self._common()
        if common < 0:
            await self._check_chain(latest)
        logger.warning("the chain has left blocks above %d; what was read there is read again", common)
        self._fork = common if self._fork is None else min(common, self._fork)
        if common < 0:
            self._begin_anew()
            return None
        (reply,) = await self._rpc.batch([call(self._coordinator, Coordinator.id.encode(), common)])
        head = Coordinator.id.decode_one(result_bytes(reply)) - 1
        await self._read_rows([range(id, id + 1) for id in self._reading.unwind(common, head)], common)
        self.head_id = min(self.head_id, max(head, self._settings.starting_sub_id))
        self._window.unwind(common)
        return common

    def _begin_anew(self) -> None:
        self._window, self._reading, self.head_id = BlockWindow(), Catalogue(), self._settings.starting_sub_id

    async def _common(self) -> int:
        numbers = sorted(self._window.hashes, reverse=True)
        for start in range(0, len(numbers), COMPARED):
            some = numbers[start : start + COMPARED]
            replies = await self._rpc.batch([Question("eth_getBlockByNumber", (hex(one), False)) for one in some])
            if (common := self._window.common(_hashes(some, replies))) >= 0:
                return common
        return -1


def _subscriptions(reply: Any, number: int) -> list[Subscription]:
    rows = Reader.read_subscription_batch.decode_one(result_bytes(reply))
    if len(rows) != number:
        raise UnreadableReply(f"{number} subscriptions were asked for, {len(rows)} came")
    return list(map(Subscription.from_row, rows))


def _hashes(numbers: Iterable[int], replies: Iterable[Any]) -> dict[int, str]:
    blocks = [(number, Block.of(result(reply))) for number, reply in zip(numbers, replies, strict=True)]
    return {number: block.hash for number, block in blocks if block is not None}
