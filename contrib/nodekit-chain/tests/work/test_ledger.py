"""The records of work: changes have conditions, and open records are found without reading the others."""

from collections.abc import AsyncIterator

import msgspec
import pytest
from msgspec.structs import replace

from nodekit import PluginStorage, VersionConflict, Write
from nodekit_chain.protocol.containers import Delivery
from nodekit_chain.protocol.delegated import Signature
from nodekit_chain.protocol.subscription import Subscription
from nodekit_chain.work.ledger import Entry, Ledger
from nodekit_chain.work.records import Delegation, Sent, State, Work, by_state
from nodekit_memory import MemoryStore

pytestmark = pytest.mark.anyio

COORDINATOR, OWNER = "0x" + "cc" * 20, "0x" + "11" * 20
SUBSCRIPTION = Subscription(OWNER, 100, 10, 3, 1, bytes(32), payment_amount=2**255)
WORK = Work(coordinator=COORDINATOR, subscription=SUBSCRIPTION, id=7, interval=2, containers=("a",))
SENT = Sent(nonce=4, hash="0x01", raw=b"\x02", gas=3, max_fee=4, priority_fee=5, head=6)
DELEGATION = Delegation(
    nonce=2**32 - 1, expiry=9, signature=Signature(27, 2**255, 2**254), data=msgspec.Raw(b'{"a":1}')
)


@pytest.fixture
async def storage() -> AsyncIterator[PluginStorage]:
    async with MemoryStore() as store:
        yield store.storage("chain")


async def created(ledger: Ledger, work: Work = WORK) -> Entry:
    entry = await ledger.create(work)
    assert entry is not None
    return entry


async def test_a_record_is_made_once(storage: PluginStorage) -> None:
    ledger = Ledger(storage)
    entry = await created(ledger)
    assert await ledger.create(WORK) is None
    assert await ledger.get(WORK.key) == entry


async def test_a_record_with_all_its_parts_is_read_as_it_was_written(storage: PluginStorage) -> None:
    ledger = Ledger(storage)
    full = replace(WORK, id=0, delegation=DELEGATION, state=State.SIGNED, payload=Delivery(b"\x00", b"\xff", b""))
    full = replace(full, sent=(SENT, SENT), giving_up=True, reason="ü", not_before=1.5)
    await created(ledger, full)
    entry = await Ledger(storage).get(full.key)
    assert entry is not None
    assert entry.work == full


async def test_of_two_changes_of_a_record_one_wins(storage: PluginStorage) -> None:
    ledger = Ledger(storage)
    entry = await created(ledger)
    changed = await ledger.change(entry, WORK.running("job", 5.0))
    with pytest.raises(VersionConflict):
        await ledger.change(entry, WORK.running("another", 5.0))
    assert await ledger.get(WORK.key) == changed


async def test_nothing_is_stored_if_a_condition_of_another_write_does_not_hold(storage: PluginStorage) -> None:
    ledger = Ledger(storage)
    entry = await created(ledger)
    await storage.put("other", b"1")
    with pytest.raises(VersionConflict):
        await ledger.change(entry, WORK.running("job", 5.0), [Write("other", b"2", 0)])
    assert await ledger.get(WORK.key) == entry


async def test_open_records_are_those_that_are_not_final(storage: PluginStorage) -> None:
    ledger = Ledger(storage)
    entry, other = await created(ledger), await created(ledger, replace(WORK, interval=3))
    ended = await ledger.change(entry, WORK.ended(State.DONE, "", 5.0))
    assert await ledger.open_keys() == [other.work.key]
    assert [one.work.state async for one in ledger.all()] == [State.DONE, State.SEEN]
    await ledger.change(ended, ended.work.unmined(6.0))
    assert await ledger.open_keys(f"{COORDINATOR}/") == [WORK.key, other.work.key]
    assert await ledger.open_keys("0xdd") == []


async def test_more_records_than_a_page_are_found(storage: PluginStorage) -> None:
    ledger = Ledger(storage)
    for interval in range(1, 1102):
        await ledger.create(replace(WORK, interval=interval))
    assert len(await ledger.open_keys()) == len([one async for one in ledger.all()]) == 1101


async def test_old_records_are_forgotten_once_they_are_final(storage: PluginStorage) -> None:
    ledger = Ledger(storage)
    for interval, state, at in ((1, State.DONE, 10.0), (2, State.FAILED, 30.0)):
        entry = await created(ledger, replace(WORK, interval=interval))
        await ledger.change(entry, entry.work.ended(state, "", at))
    await created(ledger, replace(WORK, interval=3))
    assert await ledger.forget(20.0) == 1
    assert [one.work.interval async for one in ledger.all()] == [2, 3]


async def test_a_dropped_record_can_be_made_again(storage: PluginStorage) -> None:
    ledger = Ledger(storage)
    await ledger.drop(await created(ledger))
    assert await ledger.open_keys() == []
    await created(ledger)


def test_the_key_tells_subscriptions_with_the_same_id_apart() -> None:
    other = replace(WORK, subscription=replace(SUBSCRIPTION, active_at=101))
    assert other.key != WORK.key
    assert replace(WORK, delegation=DELEGATION).key == f"{COORDINATOR}/{OWNER}/4294967295"


def test_each_attempt_and_interval_has_a_job_of_its_own() -> None:
    again = WORK.again(State.SEEN, "no luck", 5.0, 3.0)
    assert (again.attempts, again.not_before, again.reason) == (1, 8.0, "no luck")
    assert len({WORK.job_key, again.job_key, WORK.anew("late", 5.0).job_key}) == 3


def test_another_attempt_of_a_delivery_keeps_its_payload_and_no_transaction() -> None:
    signed = WORK.with_output(Delivery(b"", b"x", b""), 1.0).signed(OWNER, SENT, 2.0)
    again = signed.again(State.OUTPUT, "", 3.0, 0.0)
    assert (again.payload, again.sent, again.nonce) == (Delivery(b"", b"x", b""), (), None)
    assert signed.again(State.SEEN, "", 3.0, 0.0).payload is None


def test_versions_of_a_transaction_share_its_nonce() -> None:
    first, again, other = WORK.signed(OWNER, SENT, 1.0), replace(SENT, hash="0x02"), replace(SENT, nonce=5)
    assert first.signed(OWNER, again, 2.0).sent == (SENT, again)
    assert first.signed(OWNER, other, 2.0).sent == (other,)


def test_records_are_counted_by_state() -> None:
    counts = by_state([WORK, WORK, WORK.running("job", 1.0)])
    assert (counts["seen"], counts["running"], counts["done"]) == (2, 1, 0)
