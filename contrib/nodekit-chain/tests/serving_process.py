"""A process that serves subscriptions, and kills itself where a test says.

The argument is a JSON object with `url`, `coordinator`, `reader`, `key`, `store`, and more. It ends by SIGKILL
`before` or `after` a record is stored in that state for the first time, or `at` the sending of a stored transaction.
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
from local_chain import Contracts
from serving import FAST, Serving

from nodekit import JobStore, Write
from nodekit.testing import SharedServerStore
from nodekit_chain.account.sender import AccountSender
from nodekit_chain.work.ledger import Entry, Ledger
from nodekit_chain.work.records import State, Work
from nodekit_sqlite import SqliteStore


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingLedger(Ledger):
    """A ledger whose process dies with a change."""

    state: State
    moment: str

    async def create(self, work: Work) -> Entry | None:
        if self.state is State.SEEN and self.moment == "before":
            die()
        entry = await super().create(work)
        if self.state is State.SEEN and self.moment == "after":
            die()
        return entry

    async def change(self, entry: Entry, work: Work, writes: Sequence[Write] = ()) -> Entry:
        now = work.state is self.state and entry.work.state is not self.state
        if now and self.moment == "before":
            die()
        changed = await super().change(entry, work, writes)
        if now and self.moment == "after":
            die()
        return changed


async def echo(data: Any) -> Any:
    return {"said": data}


def store_of(place: str) -> JobStore:
    """Return the store in a file, or the client of an engine at `HOST:PORT`."""
    host, _, port = place.rpartition(":")
    return SharedServerStore(host, int(port)) if host else cast(JobStore, SqliteStore(Path(place)))


async def main(given: dict[str, str]) -> None:
    chain = SimpleNamespace(url=given["url"])
    named = {name: SimpleNamespace(address=given[name]) for name in ("coordinator", "reader")}
    contracts = cast(Contracts, SimpleNamespace(chain=chain, **named))
    store = store_of(given["store"])
    serving = Serving(
        contracts, {"echo": echo}, key=given["key"], store=store, work=FAST, name=given.get("name", "node")
    )
    if given.get("state"):
        serving.engine._context.ledger.__class__ = DyingLedger
        ledger = cast(DyingLedger, serving.engine._context.ledger)
        ledger.state, ledger.moment = State(given["state"]), given["moment"]
    if given.get("moment") == "at":

        async def broadcast(self: AccountSender, raw: bytes) -> None:
            die()

        AccountSender.broadcast = broadcast  # type: ignore[method-assign]
    async with serving.running():
        if given.get("leads"):
            while not serving.engine.leads or serving.engine.view is None:
                await anyio.sleep(0.01)
        print("ready", flush=True)
        await anyio.sleep_forever()


anyio.run(main, json.loads(sys.argv[1]))
