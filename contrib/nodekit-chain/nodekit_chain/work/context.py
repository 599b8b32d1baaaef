"""The things that all parts of the work share."""

import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nodekit import Node, VersionConflict, Write
from nodekit_chain.account.sender import AccountSender
from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.subscription import Subscription
from nodekit_chain.rpc.questions import Rpc
from nodekit_chain.work.ledger import Entry, Ledger
from nodekit_chain.work.records import State, Work
from nodekit_chain.work.settings import WorkSettings
from nodekit_chain.work.standing import Judgement, Standing

logger = logging.getLogger("nodekit.chain")

_LATE = "its time was over before its transaction was mined"


class Overtaken(Exception):
    """Another node has changed a record meanwhile. It was read again."""


class Rules(Protocol):
    """The rules of payment."""

    async def objection(self, subscription: Subscription, containers: tuple[str, ...]) -> str | None:
        """Return why a subscription is not served, or None. Raise the errors of the RPC."""
        ...

    async def reserve(self, key: str, subscription: Subscription) -> str | None:
        """Reserve what a proof's delivery locks in the node's wallet, once for each key of a record.

        Return why that is not possible now, or None. Raise the errors of the RPC.
        """
        ...

    async def release(self, key: str) -> None:
        """Free what was reserved under a key, if anything was."""
        ...


@dataclass(kw_only=True)
class Context:
    """The node and the chain, and the open records as they were last stored."""

    node: Node
    rpc: Rpc
    sender: AccountSender
    rules: Rules
    coordinator: Address
    reader: Address
    ledger: Ledger
    settings: WorkSettings
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    """Open records by key."""

    async def change(self, entry: Entry, work: Work, writes: Sequence[Write] = ()) -> Entry:
        """Store the next state of a record. Raise `Overtaken` if another node was faster, and `StoreFailed`."""
        try:
            changed = await self.ledger.change(entry, work, writes)
        except VersionConflict:
            await self.read_again(work.key)
            raise Overtaken from None
        self._follow(changed)
        return changed

    async def create(self, work: Work) -> bool:
        """Store a new record. Return False if there is one under its key."""
        entry = await self.ledger.create(work)
        if entry is not None:
            self._follow(entry)
        return entry is not None

    async def read_again(self, key: str) -> None:
        """Read a record, which another node may have changed."""
        entry = await self.ledger.get(key)
        if entry is None:
            self.entries.pop(key, None)
        else:
            self._follow(entry)

    def _follow(self, entry: Entry) -> None:
        if entry.work.final:
            self.entries.pop(entry.work.key, None)
        else:
            self.entries[entry.work.key] = entry

    def is_outpaced(self, work: Work, busy: Container[str]) -> bool:
        """Return True if the same result is on its way from another record, so that this one has to wait for it.

        A delegated subscription that somebody has created is read from the chain, too. That record goes first.
        """
        delegated = work.delegation is not None
        return any(
            one.interval == work.interval
            and one.subscription == work.subscription
            and (one.state is State.SIGNED or (one.state is State.OUTPUT and (delegated or one.key in busy)))
            for one in (entry.work for entry in self.entries.values())
            if (one.delegation is None) == delegated
        )

    async def end(self, entry: Entry, state: State, reason: str) -> Entry:
        """Store the end of a record, and free what was reserved for it."""
        ended = await self.change(entry, entry.work.ended(state, reason, self.node.now()))
        await self.rules.release(entry.work.key)
        return ended

    async def failed(self, entry: Entry, state: State, reason: str) -> Entry:
        """Store a failure: another attempt from `state` on, after a pause, or the end if there were enough."""
        work = entry.work
        if work.attempts + 1 >= self.settings.attempts:
            return await self.end(entry, State.FAILED, reason)
        delay = self.settings.retry_seconds * 2**work.attempts
        return await self.change(entry, work.again(state, reason, self.node.now(), delay))

    async def unwanted(self, entry: Entry, judged: Judgement, timestamp: int) -> None:
        """Store the end of a record that nobody wants. One whose subscription has left the chain leaves no trace.

        The subscription may come back in another block, with the same id, and then gets a new record.
        """
        if judged.standing is Standing.GONE:
            logger.warning("%s is forgotten: %s", entry.work.key, judged.reason)
            await self.ledger.drop(entry)
            self.entries.pop(entry.work.key, None)
            await self.rules.release(entry.work.key)
        else:
            await self.past(entry, judged.reason or _LATE, timestamp)

    async def past(self, entry: Entry, reason: str, timestamp: int) -> Entry:
        """Store that an interval is over. A delegated subscription that nobody has created begins with the next one."""
        work, ends_at = entry.work, entry.work.subscription.interval_ends_at(entry.work.interval)
        has_next = ends_at is not None and ends_at <= timestamp and not work.subscription.is_over(timestamp)
        if work.delegation is None or not has_next or timestamp >= work.delegation.expiry:
            return await self.end(entry, State.EXPIRED, reason)
        return await self.change(entry, work.anew(reason, self.node.now()))
