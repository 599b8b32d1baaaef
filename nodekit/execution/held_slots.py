"""The node's slots by the group that holds them. A group may hold its share, and streams theirs. Pure."""

from collections import Counter
from collections.abc import KeysView

from nodekit.interfaces.store import ClaimRoom
from nodekit.model.container import GroupId
from nodekit.model.limits import SlotShares


class HeldSlots:
    """Counts of the slots that groups hold. A stream's slot counts among its group's, too."""

    def __init__(self, shares: SlotShares) -> None:
        self.shares = shares
        """The shares may be set anew while nothing is held."""
        self.full: set[GroupId] = set()
        """Groups that hold as many slots as they may."""
        self._held: dict[GroupId, int] = {}
        self._groups_with: Counter[int] = Counter()
        """Number of groups by the number of slots that they hold."""
        self._most = 0
        """Number of slots that the group with the most slots holds."""
        self._streams_of: Counter[GroupId] = Counter()
        self._streams = 0

    @property
    def groups(self) -> KeysView[GroupId]:
        """Groups that hold slots."""
        return self._held.keys()

    def take(self, group: GroupId) -> None:
        number = self._held.get(group, 0) + 1
        self._held[group] = number
        self._groups_with[number - 1] -= 1
        self._groups_with[number] += 1
        self._most = max(self._most, number)
        if number >= self.shares.of(group):
            self.full.add(group)

    def give_back(self, group: GroupId) -> None:
        number = self._held[group]
        self._groups_with[number] -= 1
        self._groups_with[number - 1] += 1
        if number == self._most and not self._groups_with[number]:
            self._most -= 1
        if number == 1:
            del self._held[group]
        else:
            self._held[group] = number - 1
        if number - 1 < self.shares.of(group):
            self.full.discard(group)

    def room(self, limit: int, most_bytes: int) -> ClaimRoom:
        """Return the room of each group in a claim of up to `limit` jobs, which have `most_bytes`.

        Usually no group can exceed its share. That is found out without a look at each group.
        """
        shares = self.shares
        if limit <= shares.least - self._most:
            return ClaimRoom(limit, most_bytes=most_bytes)
        room = dict(shares.groups)
        for group, held in self._held.items():
            if group in room or shares.each - held < limit:
                room[group] = max(0, shares.of(group) - held)
        return ClaimRoom(shares.each, room, most_bytes)

    def take_stream(self, group: GroupId) -> bool:
        """Take a slot for a stream. Return False if the group, or all streams together, hold as many as they may."""
        if (
            self._streams >= self.shares.streams
            or group in self.full
            or self._streams_of[group] >= self.shares.streams_of(group)
        ):
            return False
        self.take(group)
        self._streams += 1
        self._streams_of[group] += 1
        return True

    def give_back_stream(self, group: GroupId) -> None:
        self.give_back(group)
        self._streams -= 1
        self._streams_of[group] -= 1
        if not self._streams_of[group]:
            del self._streams_of[group]
