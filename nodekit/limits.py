"""How much a node takes on, and for how long. Plain settings; `Node` reads them."""

from typing import Annotated

import msgspec

Seconds = Annotated[float, msgspec.Meta(gt=0)]


class ClientLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one client may ask for. What is not said is as for each client, and there as for the node."""

    max_pending: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many of its jobs may be accepted and unfinished."""
    max_priority: Annotated[int, msgspec.Meta(ge=0, le=7)] | None = None
    """The most urgent priority that it gets, from 0, the most urgent one; asking for more gives this one."""

    def over(self, other: "ClientLimits") -> "ClientLimits":
        """These limits, and those of `other` where nothing is said here."""
        return ClientLimits(
            max_pending=other.max_pending if self.max_pending is None else self.max_pending,
            max_priority=other.max_priority if self.max_priority is None else self.max_priority,
        )
