"""A virtual clock for code that asks for the time and does not sleep."""

from nodekit.testing.clock import VirtualClock


class LeapingClock(VirtualClock):
    """A clock that moves without a turn of asyncio's event loop, so thousands of leaps cost nothing."""

    def leap(self, seconds: float) -> None:
        """Let that much time pass."""
        self.jump(seconds)
        self._flow_ns += round(seconds * 1e9)
