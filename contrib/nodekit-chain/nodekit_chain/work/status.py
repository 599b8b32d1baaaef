"""The state of the watch, which operators read beside the node that has it."""

from collections.abc import Mapping

import msgspec

from nodekit import PluginStorage
from nodekit_chain.protocol.address import Address

KEY = "status"


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The watch of one node at one moment. `at` is in Unix seconds.

    - `genesis`: Hash of block 0; empty if no endpoint knows it.
    - `newest_id`: Newest subscription that was read.
    - `subscriptions`: Number of subscriptions by state.
    - `aside`: Reasons of some subscriptions that are not served, by id.
    - `work`: Number of open records by state.
    """

    node: str
    at: float
    latest: int
    latest_timestamp: int
    trail: int
    newest_id: int
    subscriptions: Mapping[str, int]
    aside: Mapping[int, str]
    work: Mapping[str, int]
    address: Address
    next_nonce: int
    genesis: str = ""


async def keep_status(storage: PluginStorage, status: Status) -> None:
    """Keep it in place of the one before."""
    await storage.put(KEY, msgspec.json.encode(status))


async def read_status(storage: PluginStorage) -> Status | None:
    """Return the last one that was kept."""
    record = await storage.get(KEY)
    return None if record is None else msgspec.json.decode(record.value, type=Status)
