"""Failures of endpoints, and for how long one is left alone after each. Pure."""

from collections.abc import Callable

from nodekit import NodekitError

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
LONGEST_ASKED_SECONDS = 600.0
"""Longest pause that an endpoint may ask for."""


class EndpointFailed(NodekitError):
    """An endpoint did not answer as it should.

    - `retry_after`: Seconds for which it asks to be left alone.
    """

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        self.retry_after = retry_after
        super().__init__(text)


class NoEndpoint(NodekitError):
    """No endpoint answers. The message names each and its failure.

    - `retry_after`: Seconds until one of them is asked again.
    """

    def __init__(self, text: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(text)


def pause_seconds(failures: int, retry_after: float, random: Callable[[], float]) -> float:
    """Return for how long an endpoint is left alone after so many failures in a row.

    The pause doubles, with a random part so that nodes that failed together do not come back together.
    """
    longest = min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE_SECONDS)
    return max(longest * (0.5 + random() / 2), min(retry_after, LONGEST_ASKED_SECONDS))
