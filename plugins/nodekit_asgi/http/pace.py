"""The pace at which a body has to arrive."""

from nodekit_asgi.config import Limits


class BodyPace:
    """The time that is left for a body: `seconds` from now, unless more of it arrives.

    It has to be whole within `body_seconds`. In each `body_timeout_seconds` it has to make progress, by at least
    `min_bytes_per_second`: so a body that stops, or comes byte by byte, does not hold memory and a connection for long.
    """

    def __init__(self, limits: Limits) -> None:
        self._left = limits.body_seconds
        self._timeout = self._pause_left = min(limits.body_timeout_seconds, limits.body_seconds)
        self._step = self._step_left = max(1, int(limits.min_bytes_per_second * limits.body_timeout_seconds))

    @property
    def seconds(self) -> float:
        return min(self._left, self._pause_left)

    def waited(self, seconds: float, size: int) -> None:
        """Record that so many bytes arrived after so many seconds. Only time spent waiting for the client counts."""
        self._left -= seconds
        self._pause_left -= seconds
        self._step_left -= size
        if self._step_left <= 0:
            self._pause_left, self._step_left = self._timeout, self._step
