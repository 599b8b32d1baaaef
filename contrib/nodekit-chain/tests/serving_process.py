"""A process that serves subscriptions, and kills itself where a test says.

The argument is a JSON object with `url`, `registry`, `key`, `store`, and more. The process ends by SIGKILL `before` or
`after` a record is stored in that state for the first time, or `at` the sending of a stored transaction. With the state
`approval` it ends `before` the transaction that sets an allowance is stored, `at` its sending, or when it was `sent`
again. Else it prints `ready` and its URL, if it has one.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
from chain_node import ChainNode
from local_chain import Contracts

from nodekit import JobStore, Secret, Transport, Write
from nodekit.testing import SharedServerStore
from nodekit_chain.account.sender import AccountSender
from nodekit_chain.payments.escrow import Escrow
from nodekit_chain.work.ledger import Entry, Ledger
from nodekit_chain.work.records import State, Work
from nodekit_sqlite import SqliteStore


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_with_record(state: State, moment: str) -> None:
    """Die with a change of a record."""
    create, change = Ledger.create, Ledger.change

    async def dying_create(self: Ledger, work: Work) -> Entry | None:
        if state is State.SEEN and moment == "before":
            die()
        entry = await create(self, work)
        if state is State.SEEN and moment == "after":
            die()
        return entry

    async def dying_change(self: Ledger, entry: Entry, work: Work, writes: Sequence[Write] = ()) -> Entry:
        now = work.state is state and entry.work.state is not state
        if now and moment == "before":
            die()
        changed = await change(self, entry, work, writes)
        if now and moment == "after":
            die()
        return changed

    Ledger.create, Ledger.change = dying_create, dying_change  # type: ignore[method-assign]


def die_with_transaction(state: str, moment: str) -> None:
    """Die with the first transaction, which is that of an allowance if a proof is served."""
    send = AccountSender.broadcast

    async def keep(self: Escrow, *arguments: Any) -> None:
        die()

    async def broadcast(self: AccountSender, raw: bytes) -> None:
        if moment == "sent":
            await send(self, raw)
        die()

    if moment in ("at", "sent"):
        AccountSender.broadcast = broadcast  # type: ignore[method-assign]
    elif state == "approval":
        Escrow._keep = keep  # type: ignore[assignment, method-assign]


async def echo(data: Any) -> Any:
    return {"said": data}


async def prove(data: Any) -> Any:
    keys = ("raw_input", "processed_input", "raw_output", "processed_output", "proof")
    return dict.fromkeys(keys, "0a")


def store_of(place: str) -> JobStore:
    """Return the store in a file, on a Redis server, or on an engine at `HOST:PORT`."""
    if place.startswith("redis:"):
        from nodekit_redis import RedisConfig, RedisStore

        return RedisStore(RedisConfig(url=Secret(place), lease_seconds=2.0, look_seconds=1.0))
    host, _, port = place.rpartition(":")
    return SharedServerStore(host, int(port)) if host else cast(JobStore, SqliteStore(Path(place)))


def transports(given: dict[str, str]) -> list[Transport]:
    """Return the HTTP API, if it is wanted. Other processes start sooner without it."""
    if not given.get("http"):
        return []
    from nodekit_asgi import AsgiConfig, AsgiTransport

    return [AsgiTransport(config=AsgiConfig(bind="127.0.0.1:0"))]


async def main(given: dict[str, str]) -> None:
    contracts = SimpleNamespace(
        chain=SimpleNamespace(url=given["url"]), registry=SimpleNamespace(address=given["registry"])
    )
    chain = ChainNode(
        cast(Contracts, contracts),
        {"echo": echo, "prove": prove},
        rules={"prove": {"generates_proofs": True}},
        key=given["key"],
        store=store_of(given["store"]),
        transports=transports(given),
        wallet={"payment_address": given["wallet"]} if given.get("wallet") else None,
        name=given.get("name", "node"),
        lease_seconds=3.0,
    )
    state, moment = given.get("state", ""), given.get("moment", "")
    if state in set(State):
        die_with_record(State(state), moment)
    else:
        die_with_transaction(state, moment)
    async with chain.running():
        if given.get("leads"):
            while not chain.leads:
                await anyio.sleep(0.01)
        print("ready", *chain.node.urls, flush=True)
        await anyio.sleep_forever()


anyio.run(main, json.loads(sys.argv[1]))
