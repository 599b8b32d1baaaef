"""Slots for streams. Streams wait here instead of in the store's queue, and take slots before queued jobs."""

from collections.abc import Callable

import anyio

from nodekit.execution.slots import Slots
from nodekit.model.container import ContainerId


class StreamSlots:
    """Streams that wait for a slot of the node and a slot of a container at once."""

    def __init__(self, slots: Slots, ask: Callable[[], None]) -> None:
        """Wire the slots. `ask` is called when a stream begins to wait; it must call `grant`."""
        self._slots = slots
        self._ask = ask
        self._waiting: dict[ContainerId, dict[anyio.Event, None]] = {}

    async def take(self, id: ContainerId) -> None:
        """Wait for a slot of the node and one of the container, and take both."""
        turn = anyio.Event()
        self._waiting.setdefault(id, {})[turn] = None
        try:
            self._ask()
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.give_back(id)
            else:
                self._forget(id, turn)
            raise

    def give_back(self, id: ContainerId | None) -> None:
        """Give back the node's slot, and the container's slot if there is one."""
        self._slots.give_back(id)
        self._slots.free += 1

    def grant(self) -> bool:
        """Give out free slots, to one container after another. Return True if any was given out.

        Call this whenever a slot may have become free.
        """
        granted = False
        for id in list(self._waiting):
            while id in self._waiting and self._free(id):
                turn = next(iter(self._waiting[id]))
                self._forget(id, turn)
                if turns := self._waiting.pop(id, None):
                    self._waiting[id] = turns  # moved behind the other containers, for the next time
                turn.set()
                granted = True
        return granted

    def _free(self, id: ContainerId) -> bool:
        if self._slots.free < 1 or not self._slots.take(id):
            return False
        self._slots.free -= 1
        return True

    def _forget(self, id: ContainerId, turn: anyio.Event) -> None:
        turns = self._waiting[id]
        del turns[turn]
        if not turns:
            del self._waiting[id]
