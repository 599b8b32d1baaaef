"""The table of replies that differ for callers of older nodes."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

ProfileName: TypeAlias = Literal["infernet-0.1", "infernet-1.4"]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The replies of a node that differ between profiles.

    - `refused`: The HTTP status of a refusal. A malformed request is 400 in every profile.
    - `nothing_found`: The HTTP status if none of the requested ids is known; 200 comes with an empty list.
    - `reported`: The body that answers a status report.
    - `knows_all_queries`: False if query parameters that no route takes are ignored, not refused.
    """

    refused: int
    nothing_found: int
    reported: Any
    knows_all_queries: bool


PROFILES: Mapping[ProfileName, Profile] = {
    "infernet-0.1": Profile(refused=400, nothing_found=404, reported={}, knows_all_queries=True),
    "infernet-1.4": Profile(refused=405, nothing_found=200, reported=None, knows_all_queries=False),
}
