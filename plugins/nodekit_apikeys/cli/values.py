"""Values of options: times, and the fields of a key."""

import re
from datetime import UTC, datetime

import click

from nodekit_apikeys._key import NAME_CURE, is_name

_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def check_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Check the name of a client or a group."""
    if value is not None and not is_name(value):
        raise click.BadParameter(f"{value!r:.100}: {NAME_CURE}", ctx, param)
    return value


def check_duration(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Return a duration in seconds, such as ``90d``."""
    if (seconds := _seconds(value)) is None:
        raise click.BadParameter(f"{value!r:.100}: expected a number and s, m, h, d or w, such as 90d", ctx, param)
    return seconds


def check_expiry(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return a time to come in Unix seconds: a duration from now, or a time as in ISO 8601, of UTC by default."""
    if value is None:
        return None
    now = datetime.now(UTC).timestamp()
    if (seconds := _seconds(value)) is not None:
        when = now + seconds
    else:
        try:
            read = datetime.fromisoformat(value)
            when = (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError) as error:
            text = f"{value!r:.100}: expected a duration such as 90d, or a date such as 2030-01-31"
            raise click.BadParameter(text, ctx, param) from error
    if when <= now:
        raise click.BadParameter(f"{value!r:.100}: is over; name a time to come", ctx, param)
    return when


def _seconds(text: str) -> float | None:
    found = _DURATION.fullmatch(text)
    return float(int(found[1]) * _SECONDS[found[2]]) if found else None


def shown_time(seconds: float | None) -> str | None:
    """Return a time as text, in UTC."""
    if seconds is None:
        return None
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return "never" if seconds > 0 else "always"
