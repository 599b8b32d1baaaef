"""Ages and times on the command line."""

import re
from datetime import UTC, datetime

import click

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def age_seconds(ctx: click.Context, param: click.Parameter, age: str | None) -> float | None:
    """Return an age such as ``7d`` in seconds."""
    if age is None:
        return None
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", age, re.ASCII):
        return float(found[1]) * UNITS[found[2]]
    raise click.BadParameter(f"{age!r} is no age; expected a number with s, m, h, d or w, such as 7d")


def time_text(seconds: float) -> str:
    """Return a Unix time as text, in UTC. A time that is none, because it is damaged, is shown as a number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return f"{seconds!r}"


def exact_time(seconds: float) -> str | float:
    """Return a Unix time as text for programs, as the node's replies have it, with microseconds.

    A time that is none, because it is damaged, stays a number.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (OverflowError, OSError, ValueError):
        return seconds


def duration_text(seconds: float) -> str:
    """Return a number of seconds as text of at most eight characters."""
    if seconds < 10:
        return f"{seconds:.3f} s"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
