"""The table of `nodekit job list`: a line for each job, whose first word is the id."""

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from nodekit_asgi.cli.client import Reply
from nodekit_asgi.cli.output import fit, one_line
from nodekit_asgi.cli.replies import History

HEAD = ("id", "status", "age", "steps", "containers")
WIDTHS = (36, 7, 6, 5)
"""Widths of the columns but the last. They are fixed, so that lines are printed before the last job is known."""
CLIENT_WIDTH = 15
"""Width of the column of clients, before the last one: that of an IPv4 address."""
LONGEST = 200
"""Columns of the last cell in files and pipes: an error may be long."""


def table_head(columns: int | None, *, clients: bool = False) -> str:
    return _line((*HEAD[:-1], "client", HEAD[-1]) if clients else HEAD, columns)


def table_rows(
    histories: Iterator[tuple[History, Reply]], columns: int | None, *, clients: bool = False
) -> Iterator[str]:
    """Yield a row for each job. `columns` is the width of the terminal, or None; with `clients` a row names its own."""
    for history, reply in histories:
        state = (history.id, history.status, _age(history.accepted_at, _now(reply)), _steps(history))
        client = (history.client or "",) if clients else ()
        yield _line(tuple(map(one_line, (*state, *client, _what(history)))), columns)


def _line(cells: tuple[str, ...], columns: int | None) -> str:
    """Return a row. The last cell gets the rest of the width; only the id is shown however narrow the terminal is."""
    *first, last = cells
    widths = WIDTHS if len(first) == len(WIDTHS) else (*WIDTHS, CLIENT_WIDTH)
    fixed = "".join(cell.ljust(width) + "  " for cell, width in zip(first, widths, strict=True))
    if columns is None:
        return fixed + fit(last, LONGEST)
    line = fixed + fit(last, max(columns - len(fixed), 0))
    return line if len(fixed) < columns else fixed[: max(columns, WIDTHS[0])].rstrip()


def _now(reply: Reply) -> datetime:
    """Return the time by the clock of the node, which gave the jobs theirs; by this clock if the node does not say."""
    try:
        now = parsedate_to_datetime(reply.headers.get("Date", ""))
    except ValueError:
        now = datetime.now(UTC)
    return now if now.tzinfo else now.replace(tzinfo=UTC)


def _age(accepted_at: datetime, now: datetime) -> str:
    seconds = max(int((now - accepted_at).total_seconds()), 0)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 48 * 3600 else f"{seconds // 86_400} d"


def _steps(history: History) -> str:
    done = sum(step.has_output for step in history.steps)
    # another pipeline may take other steps than the requested ones
    return f"{done}/{len(history.containers)}" if history.pipeline == "sequence" else str(done)


def _what(history: History) -> str:
    """Return the containers of a job; of a failed one the error, of an unfinished one its state and next container."""
    if (failure := history.failure) is not None:
        return f"{failure.container}: {failure.error}" if failure.container else failure.error
    if history.status == "running":
        return f"{history.state}: {history.due}" if history.due else history.state
    return " -> ".join(history.containers)
