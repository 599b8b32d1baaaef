"""Slots for streams. Streams wait here instead of in the store's queue, and take slots before queued jobs."""

from collections.abc import Callable
from typing import TypeAlias

import anyio

from nodekit.execution.held_slots import HeldSlots
from nodekit.execution.slots import Slots
from nodekit.model.container import ContainerId, GroupId

_Turns: TypeAlias = dict[anyio.Event, None]


class StreamSlots:
    """Streams that wait for a slot of the node and a slot of a container at once. Groups take turns."""

    def __init__(self, slots: Slots, held: HeldSlots, ask: Callable[[], None]) -> None:
        """Wire the slots. `ask` is called when a stream begins to wait; it must call `grant`."""
        self._slots = slots
        self._held = held
        self._ask = ask
        self._waiting: dict[ContainerId, dict[GroupId, _Turns]] = {}

    async def take(self, id: ContainerId, group: GroupId) -> None:
        """Wait for a slot of the node and one of the container, and take both for a group."""
        turn = anyio.Event()
        self._waiting.setdefault(id, {}).setdefault(group, {})[turn] = None
        try:
            self._ask()
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.give_back(id, group)
            else:
                self._forget(id, group, turn)
            raise

    def give_back(self, id: ContainerId | None, group: GroupId) -> None:
        """Give back the node's slot, and the container's slot if there is one."""
        self._slots.give_back(id, stream=True)
        self._slots.free += 1
        self._held.give_back_stream(group)

    def grant(self) -> bool:
        """Give out free slots, to one container after another. Return True if any was given out.

        Call this whenever a slot may have become free.
        """
        granted = False
        for id in list(self._waiting):
            while id in self._waiting and (group := self._taken(id)) is not None:
                turn = next(iter(self._waiting[id][group]))
                self._forget(id, group, turn)
                if groups := self._waiting.pop(id, None):
                    self._waiting[id] = groups  # moved behind the other containers, for the next time
                    if turns := groups.pop(group, None):
                        groups[group] = turns  # and the group behind the other groups
                turn.set()
                granted = True
        return granted

    def _taken(self, id: ContainerId) -> GroupId | None:
        """Take slots for the first group that waits for the container and may have them. Return None if none may."""
        if self._slots.free < 1 or not self._slots.take(id, stream=True):
            return None
        for group in self._waiting[id]:
            if self._held.take_stream(group):
                self._slots.free -= 1
                return group
        self._slots.give_back(id, stream=True)
        return None

    def _forget(self, id: ContainerId, group: GroupId, turn: anyio.Event) -> None:
        groups = self._waiting[id]
        del groups[group][turn]
        if not groups[group]:
            del groups[group]
        if not groups:
            del self._waiting[id]
