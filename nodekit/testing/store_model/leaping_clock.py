"""A virtual clock for what asks for the time and does not sleep."""

from nodekit.testing.clock import VirtualClock


class LeapingClock(VirtualClock):
    """Moves without giving the event loop, asyncio's, its turns: thousands of leaps cost nothing."""

    def leap(self, seconds: float) -> None:
        """Let so much time pass."""
        self.jump(seconds)
        self._flow_ns += round(seconds * 1e9)
