"""Where callers of older nodes expect other replies: one table of what differs."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

ProfileName: TypeAlias = Literal["infernet-0.1", "infernet-1.4"]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """How a node replies."""

    refused: int
    """The HTTP status of a refusal; what is malformed is 400 in each of them."""
    nothing_found: int
    """The HTTP status where none of the ids that are asked for is there; 200 is an empty list."""
    reported: Any
    """The body that answers a status report."""


PROFILES: Mapping[ProfileName, Profile] = {
    "infernet-0.1": Profile(refused=400, nothing_found=404, reported={}),
    "infernet-1.4": Profile(refused=405, nothing_found=200, reported=None),
}
