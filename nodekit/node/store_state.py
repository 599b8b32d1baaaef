"""The state of a store, for those who watch a node. Not each store can say everything."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from nodekit.errors import StoreFailed
from nodekit.interfaces.component_calls import asked
from nodekit.interfaces.shared_store import QueueState
from nodekit.interfaces.store import JobStore
from nodekit.interfaces.store_abilities import DiskSpace
from nodekit.model.container import ContainerId

logger = logging.getLogger("nodekit.node")

T = TypeVar("T")


class StoreState(msgspec.Struct, frozen=True):
    """The queues of a store, and the space of its files. A part is None if the store does not say it, or fails.

    - `queues`: Queued jobs by the container that is due, on a shared store of all nodes.
    - `disk`: The space of its files.
    """

    queues: Mapping[ContainerId, QueueState] | None = None
    disk: DiskSpace | None = None


async def store_state(store: JobStore) -> StoreState:
    """Ask a store for all that it can say. It looks at each queued job."""
    able: Any = store
    queues = await _answer(able.queues) if hasattr(store, "queues") else None
    return StoreState(queues, await _answer(able.disk) if hasattr(store, "disk") else None)


async def _answer(ask: Callable[[], Awaitable[T]]) -> T | None:
    try:
        return await asked(ask)
    except StoreFailed as error:
        logger.debug("the store does not say how it is: %s", error)
        return None
