"""Settings and pauses that are common to runners that start containers themselves."""

from typing import Annotated

import msgspec

from nodekit_remote._container import HttpContainer

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 30.0
"""Time after which the end of a container counts as its first one again."""


class StartedContainer(HttpContainer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container called over HTTP. Its runner starts it, restarts it when it dies, and ends it.

    - `startup_seconds`: Time it may take until it answers.
    - `stop_seconds`: Time it may take to end after SIGTERM, before it is killed.
    - `log_lines_per_second`: Maximum number of its lines in the node's log, as an average over ten seconds. The rest is
      dropped and counted; the container is not held up.
    - `log_bytes_per_second`: Maximum number of bytes of these lines.
    - `required`: If true, the node starts only with it. If false, it comes up meanwhile, and is tried again if it fails
      to.
    """

    startup_seconds: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    stop_seconds: Annotated[float, msgspec.Meta(ge=0)] = 5.0
    required: bool = True
    log_lines_per_second: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 100.0
    log_bytes_per_second: Annotated[int, msgspec.Meta(ge=0)] = 32 * 1024


def restart_pause(pause: float, ran_seconds: float) -> float:
    """Return the seconds to wait before the next start of a container that ended after `ran_seconds`.

    `pause` is the pause before its last start, or 0 if there was none.
    """
    if ran_seconds >= STEADY_SECONDS:
        return FIRST_PAUSE_SECONDS
    return min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
