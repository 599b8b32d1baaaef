"""What runners that bring up containers themselves have in common."""

from typing import Annotated

import msgspec

from nodekit_remote._http import HttpContainer

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 30.0
"""After having run this long, the next death is the first again."""


class StartedContainer(HttpContainer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container called over HTTP that its runner starts, starts again when it dies, and ends."""

    startup_seconds: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    """How long it may take until it answers."""
    stop_seconds: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    """How long it may take to end after SIGTERM, before it is killed."""
    required: bool = True
    """Whether the node starts only with it. If not, it comes up meanwhile, and is tried again where it fails to."""


def restart_pause(pause: float, ran_seconds: float) -> float:
    """How many seconds to wait before the next start of a container that ended after `ran_seconds`.

    `pause` is the one before its last start; 0: there was none.
    """
    if ran_seconds >= STEADY_SECONDS:
        return FIRST_PAUSE_SECONDS
    return min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
