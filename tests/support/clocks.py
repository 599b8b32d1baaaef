"""A clock that stands still until a test sets it."""


class GivenClock:
    """A `Clock` with the Unix time and the steady seconds that a test has given it."""

    def __init__(self, unix: float = 1_700_000_000.0, steady: float = 0.0) -> None:
        self.unix, self.steady = unix, steady

    def time(self) -> float:
        return self.unix

    def monotonic(self) -> float:
        return self.steady

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.unix += seconds
        self.steady += seconds
