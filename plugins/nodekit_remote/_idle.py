"""The decision which connections to a container stay open. It does no I/O and reads no clock."""

SHARE = 8
"""A trial takes at most this part of the time of a call."""
SHORTEST_SECONDS = 0.005
LONGEST_SECONDS = 0.25
MOST_FAILURES = 6


class IdleRule:
    """The rule by which connections to one container are kept after a call.

    A server with few threads or processes serves a connection until it ends. If the connection is kept idle, or takes
    the next call at once, the calls on new connections wait: one thread then needs seconds for ten short calls. Nothing
    that the server says gives this away. So a connection is kept

    * if no call waits for the first byte of a reply on a new connection; or
    * if one does, as a trial. It succeeds once such a call gets a byte: the server serves more than one connection. If
      none gets one within `trial_seconds`, idle connections are closed, and so are the connections of the next calls
      that end: of 1, 3, 7, … up to 63 before the next trial.
    """

    def __init__(self) -> None:
        self._waiting: set[object] = set()
        self._trial: object = None
        """Identity of the trial that is under way; None if there is none."""
        self._failures = 0
        self._closes = 0
        """Number of connections to close before the next trial."""

    @property
    def is_blank(self) -> bool:
        """True if nothing is known that a new rule does not know."""
        return not self._waiting and self._trial is None and not self._failures

    def waits(self, call: object) -> None:
        """Note a call that needs a new connection."""
        self._waiting.add(call)

    def answered(self, call: object) -> None:
        """Note the first byte of a reply to a call."""
        if call in self._waiting:
            self._waiting.discard(call)
            if self._trial is not None:
                self._trial, self._failures, self._closes = None, 0, 0

    def ended(self, call: object) -> None:
        """Note that a call waits no longer, whatever became of it."""
        self._waiting.discard(call)

    def released(self) -> "bool | object":
        """Return True if the connection of a call that ended may be kept, and False if not.

        Return anything else if it may be kept as the beginning of a trial: `expired` takes it, after `trial_seconds`.
        """
        if not self._waiting or self._trial is not None:
            return True
        if self._closes:
            self._closes -= 1
            return False
        self._trial = object()
        return self._trial

    def expired(self, trial: object) -> bool:
        """End a trial. Return True if it failed, so that idle connections must be closed."""
        if trial is not self._trial:
            return False
        self._trial = None
        if not self._waiting:
            return False
        self._failures = min(self._failures + 1, MOST_FAILURES)
        self._closes = 2**self._failures - 1
        return True


def trial_seconds(call_seconds: float) -> float:
    """Return the length of a trial that begins after a call of that length."""
    return min(max(call_seconds / SHARE, SHORTEST_SECONDS), LONGEST_SECONDS)
