"""Transactions on their way: mined, reverted, dropped, stuck, confirmed. One request for all with each block."""

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from nodekit import NodekitError
from nodekit_chain.account.fees import FeesTooHigh
from nodekit_chain.account.sender import KNOWN
from nodekit_chain.account.transactions import SignedTransaction
from nodekit_chain.protocol.contracts import Coordinator
from nodekit_chain.protocol.keys import delegated_key, node_key
from nodekit_chain.protocol.reverts import revert_of
from nodekit_chain.rpc.questions import Question, Refused, call, hex_bytes, quantity, result, result_bytes
from nodekit_chain.watching.catalogue import Catalogue
from nodekit_chain.watching.watcher import View
from nodekit_chain.work.context import Context
from nodekit_chain.work.delivering import Deliveries
from nodekit_chain.work.ledger import Entry
from nodekit_chain.work.records import ON_CHAIN, State, Work
from nodekit_chain.work.standing import Standing, standing

logger = logging.getLogger("nodekit.chain")

HARMLESS = (*KNOWN, "underpriced")
"""Parts of the texts with which endpoints refuse transactions that they have already."""


class Receipt(msgspec.Struct, frozen=True):
    """The part of a transaction's receipt that matters."""

    hash: str
    block: int
    block_hash: str
    succeeded: bool

    @classmethod
    def of(cls, reply: Any) -> "Receipt | None":
        """Return the receipt of a reply, or None if the transaction is not mined."""
        if reply is None:
            return None
        try:
            block, succeeded = int(reply["blockNumber"], 16), int(reply["status"], 16) == 1
            return cls(reply["transactionHash"].lower(), block, reply["blockHash"], succeeded)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NodekitError(f"the RPC endpoint answered with no receipt: {str(reply)[:100]}") from error


class Tracking:
    """Follows the transactions of records until they count for good."""

    def __init__(self, context: Context, deliveries: Deliveries, *, depth: int) -> None:
        """`depth`: number of blocks, its own included, after which a transaction counts for good."""
        self._context, self._deliveries, self._depth = context, deliveries, depth
        self._problem = ""
        self._lost: set[str] = set()
        """Keys of records whose nonce another transaction seems to have taken. The next block decides."""
        self._gap: tuple[int, int] | None = None
        """A nonce that no record has, although later ones wait for it, and the block in which that was noticed."""
        self._filling: SignedTransaction | None = None
        """The empty transfer that was sent last for such a nonce."""

    @property
    def problem(self) -> str:
        """The reason why transactions are refused when they are sent again; empty if they are not."""
        return self._problem

    async def look(self, view: View, catalogue: Catalogue) -> None:
        """Follow all transactions. One that cannot be followed now is left for the next block."""
        entries = [entry for entry in self._context.entries.values() if entry.work.state in ON_CHAIN]
        if not entries:
            self._problem = ""
            return
        questions = [self._questions(entry.work) for entry in entries]
        count = Question("eth_getTransactionCount", (self._context.sender.address, "latest"))
        replies = await self._context.rpc.batch([count, *(one for some in questions for one in some)])
        used, place = quantity(replies[0]), 1
        again: list[Entry] = []
        for entry, some in zip(entries, questions, strict=True):
            answers = replies[place : place + len(some)]
            place += len(some)
            try:
                if await self._step(entry, answers, view, used, catalogue):
                    again.append(entry)
            except NodekitError as error:
                logger.warning("the transaction of %s cannot be followed: %s", entry.work.key, error)
        await self._broadcast(again)
        await self._fill(view, used)

    def _questions(self, work: Work) -> list[Question]:
        if work.state is State.CONFIRMED:
            key = node_key(work.id, work.interval, self._context.sender.address)
            return [call(self._context.coordinator, Coordinator.proof_requests.encode(key))]
        return [Question("eth_getTransactionReceipt", (sent.hash,)) for sent in work.sent]

    async def _step(self, entry: Entry, answers: Sequence[Any], view: View, used: int, catalogue: Catalogue) -> bool:
        """Follow one record. Return True if its transaction is to be sent to the endpoints again."""
        work = entry.work
        if work.state is State.CONFIRMED:
            await self._judged(entry, answers[0], view)
            return False
        receipt = next((one for one in map(Receipt.of, map(result, answers)) if one is not None), None)
        if receipt is not None:
            self._lost.discard(work.key)
            await self._mined(entry, receipt, view, catalogue)
            return False
        if standing(work, catalogue, view.latest.timestamp).standing is Standing.UNREAD:
            return False
        if work.state is State.MINED:
            logger.warning("the block with the transaction of %s has left the chain; it is sent again", work.key)
            entry = await self._context.change(entry, work.unmined(self._context.node.now()))
            if self._is_wanted(entry.work, view, catalogue):
                return True
            work = entry.work  # and is cancelled below: its id may be another subscription's now
        assert work.nonce is not None
        if used > work.nonce and work.account == self._context.sender.address:
            await self._taken(entry)
            return False
        return await self._waits(entry, view, catalogue)

    # -- mined ------------------------------------------------------------------------------------

    async def _mined(self, entry: Entry, receipt: Receipt, view: View, catalogue: Catalogue) -> None:
        work, context = entry.work, self._context
        if work.giving_up and receipt.hash == work.sent[-1].hash:
            await self._given_up(entry, view, catalogue)
            return
        if not receipt.succeeded:
            if work.closing:  # somebody else was faster
                await context.change(entry, work.unclosed(context.node.now()))
            else:
                await self._reverted(entry, receipt, view)
            return
        if (work.block, work.block_hash) != (receipt.block, receipt.block_hash) or work.state is State.SIGNED:
            entry = await context.change(entry, work.mined(receipt.block, receipt.block_hash, context.node.now()))
        if view.latest.number - receipt.block + 1 >= self._depth:
            entry = await self._with_id(entry)
            confirmed = await context.change(entry, entry.work.confirmed(context.node.now()))
            if confirmed.work.final:
                await context.rules.release(confirmed.work.key)

    async def _given_up(self, entry: Entry, view: View, catalogue: Catalogue) -> None:
        """End a record whose transaction was cancelled; or deliver it, if a fork has made it wanted again."""
        judged, now = standing(entry.work, catalogue, view.latest.timestamp), self._context.node.now()
        if judged.standing is Standing.WANTED:
            state = State.OUTPUT if entry.work.payload is not None else State.SEEN
            again = entry.work.again(state, "a fork has made it wanted again", now, 0.0)
            await self._context.change(entry, replace(again, attempts=entry.work.attempts))
        elif judged.standing is not Standing.UNREAD:
            await self._context.unwanted(entry, judged, view.latest.timestamp)

    async def _with_id(self, entry: Entry) -> Entry:
        """Store the id that a delegated subscription was given."""
        work, context = entry.work, self._context
        if work.delegation is None:
            return entry
        key = delegated_key(work.subscription.owner, work.delegation.nonce)
        (reply,) = await context.rpc.batch([call(context.coordinator, Coordinator.delegate_created_ids.encode(key))])
        id = Coordinator.delegate_created_ids.decode_one(result_bytes(reply))
        return entry if id == work.id else await context.change(entry, replace(work, id=id))

    async def _reverted(self, entry: Entry, receipt: Receipt, view: View) -> None:
        """Find out why a transaction was reverted: the same call, once more, on the block before."""
        if entry.work.payload is None:  # it was mined once, in a block that has left the chain
            await self._context.failed(entry, State.SEEN, "its transaction was reverted in another block")
            return
        data = self._deliveries.data(entry.work)
        sender, to = self._context.sender.address, self._context.coordinator
        (reply,) = await self._context.rpc.batch([call(to, data, receipt.block, sender)])
        if isinstance(reply, Refused):
            revert = revert_of(reply.data)
        else:
            (reply,) = await self._context.rpc.batch([call(to, data, receipt.block - 1, sender)])
            revert = revert_of(reply.data if isinstance(reply, Refused) else b"")
        logger.warning("the transaction %s of %s was reverted: %s", receipt.hash, entry.work.key, revert)
        await self._deliveries.refused(entry, revert, view)

    async def _judged(self, entry: Entry, reply: Any, view: View) -> None:
        """End a record whose proof was judged. If nobody has judged it in time, anybody may end it: this node does."""
        expiry, _, _ = Coordinator.proof_requests.decode(result_bytes(reply))
        if not expiry:
            await self._context.end(entry, State.DONE, await self._verdict(entry.work))
        elif view.latest.timestamp >= expiry:
            await self._deliveries.close(entry, view)

    async def _verdict(self, work: Work) -> str:
        """Return what became of a proof, by the coordinator's log."""
        event = Coordinator.proof_verified
        address = self._context.sender.address
        topics = [event.topic.hex(), f"{work.id:064x}", f"{work.interval:064x}", f"{address[2:]:0>64}"]
        query = {
            "address": self._context.coordinator,
            "topics": [f"0x{topic}" for topic in topics],
            "fromBlock": hex(work.block),
            "toBlock": "latest",
        }
        (reply,) = await self._context.rpc.batch([Question("eth_getLogs", (query,))])
        try:
            log = result(reply)[-1]
            data = hex_bytes(log["data"]) or b""
            *_, active, _, valid = event.decode([hex_bytes(topic) or b"" for topic in log["topics"]], data)
        except (NodekitError, LookupError, TypeError):
            return "its proof was judged"
        return (
            ("its proof was accepted" if valid else "its proof was rejected") if active else "its proof was not judged"
        )

    # -- not mined --------------------------------------------------------------------------------

    async def _taken(self, entry: Entry) -> None:
        """Sign again under another nonce: a foreign transaction has taken this one. Two blocks must say so."""
        key, now = entry.work.key, self._context.node.now()
        if key not in self._lost:
            self._lost.add(key)
            return
        self._lost.discard(key)
        if entry.work.closing:
            await self._context.change(entry, entry.work.unclosed(now))
            return
        state = State.OUTPUT if entry.work.payload is not None else State.SEEN
        await self._context.change(entry, entry.work.again(state, "its nonce was taken by another transaction", now, 0))

    async def _waits(self, entry: Entry, view: View, catalogue: Catalogue) -> bool:
        work, newest = entry.work, entry.work.sent[-1]
        if work.account != self._context.sender.address:  # an earlier account of the node: its key is not here
            return view.latest.number > newest.head
        over = not work.giving_up and not work.closing and not self._is_wanted(work, view, catalogue)
        stuck = view.latest.number - newest.head >= self._context.settings.bump_after_blocks
        if work.payload is None and not work.giving_up and not work.closing:  # it was done, in another block
            stuck = stuck and view.latest.base_fee > newest.max_fee
        if over or stuck:
            try:
                await self._deliveries.replace(entry, view, giving_up=over or work.giving_up)
            except FeesTooHigh as problem:
                logger.warning("the transaction of %s waits: %s", work.key, problem)
                return True
            return False
        return view.latest.number > newest.head

    def _is_wanted(self, work: Work, view: View, catalogue: Catalogue) -> bool:
        return standing(work, catalogue, view.latest.timestamp).standing is Standing.WANTED

    async def _fill(self, view: View, used: int) -> None:
        """Fill a gap before the nonces of the records: the transaction that had this nonce is lost."""
        nonces = [one.work.nonce for one in self._context.entries.values() if one.work.state is State.SIGNED]
        if not nonces or used in nonces or max(one or 0 for one in nonces) < used:
            self._gap = None
        elif self._gap is None or self._gap[0] != used:
            self._gap = used, view.latest.number
        elif view.latest.number - self._gap[1] >= 2 * self._context.settings.bump_after_blocks:
            logger.warning("the transaction with the nonce %d is lost; an empty transfer takes its place", used)
            self._gap = None
            before = self._filling if self._filling is not None and self._filling.nonce == used else None
            try:
                self._filling = await self._deliveries.fill(used, before)
            except FeesTooHigh as problem:
                logger.warning("the nonce %d waits: %s", used, problem)
                if before is not None:
                    await self._context.sender.broadcast(before.raw)

    async def _broadcast(self, entries: Sequence[Entry]) -> None:
        raws = [f"0x{entry.work.sent[-1].raw.hex()}" for entry in entries]
        self._problem = ""
        if not raws:
            return
        for reply in await self._context.rpc.batch([Question("eth_sendRawTransaction", (raw,)) for raw in raws]):
            if isinstance(reply, Refused) and not any(text in str(reply).lower() for text in HARMLESS):
                self._problem = f"the endpoint takes no transaction of {self._context.sender.address}: {reply}"
