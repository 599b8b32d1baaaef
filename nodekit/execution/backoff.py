"""Decide if a step is tried again, and after how long. Pure: chance is given."""

from collections.abc import Callable

from nodekit.model.container import ContainerError, Retry

_DOUBLINGS = 64
"""Maximum number of doublings. More would not fit into a float, and no pause is that long."""


def delay_before_retry(
    retry: Retry, attempt: int, error: ContainerError, retry_after: float | None, random: Callable[[], float]
) -> float | None:
    """Return the seconds until the next attempt, or None if this attempt was the last.

    `random` gives numbers from 0 to 1, for the random part of the delay.
    """
    if attempt >= retry.attempts or not _is_retried(retry, error):
        return None
    asked = retry_after or 0.0
    if asked > retry.longest_retry_after_seconds:
        return None
    longest = min(retry.first_delay_seconds * 2.0 ** min(attempt - 1, _DOUBLINGS), retry.longest_delay_seconds)
    return max(random() * longest, asked)


def _is_retried(retry: Retry, error: ContainerError) -> bool:
    return error.status in retry.statuses if error.kind == "status" else error.kind in retry.failures
