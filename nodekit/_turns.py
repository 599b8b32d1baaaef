"""Slots for streams. They wait here and not in the store's queue: oldest first, and before jobs that are queued."""

from collections.abc import Callable

import anyio

from nodekit._slots import Slots
from nodekit.container import ContainerId


class Turns:
    """Who waits for a slot of the node and one of a container at once."""

    def __init__(self, slots: Slots, ask: Callable[[], None]) -> None:
        """`ask` is called when somebody begins to wait, and calls `grant`."""
        self._slots = slots
        self._ask = ask
        self._waiting: dict[anyio.Event, ContainerId] = {}

    async def take(self, id: ContainerId) -> None:
        """Returns when it has a slot of the node and one of the container."""
        turn = anyio.Event()
        self._waiting[turn] = id
        try:
            self._ask()
            await turn.wait()
        except BaseException:
            if self._waiting.pop(turn, None) is None:
                self.give_back(id)
            raise

    def give_back(self, id: ContainerId | None) -> None:
        """The node's slot, and the container's where there is one."""
        self._slots.give_back(id)
        self._slots.free += 1

    def grant(self) -> bool:
        """Give out what is free; whether anything was. To be called whenever something may have become free."""
        granted = [turn for turn, id in self._waiting.items() if self._free(id)]
        for turn in granted:
            del self._waiting[turn]
            turn.set()
        return bool(granted)

    def _free(self, id: ContainerId) -> bool:
        if self._slots.free < 1 or not self._slots.take(id):
            return False
        self._slots.free -= 1
        return True
