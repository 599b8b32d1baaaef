"""Options that choose jobs."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from nodekit.cli.store.ages import age_seconds
from nodekit.cli.store.reading import STATUSES

F = TypeVar("F", bound=Callable[..., Any])


def valid_text(ctx: click.Context, param: click.Parameter, text: str | None) -> str | None:
    """Return a text of the command line. Refuse bytes that are not UTF-8: no job has them."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter("expected UTF-8; set the terminal or the script to it") from error
    return text


FILE = click.argument("file", type=click.Path(dir_okay=False))

_OPTIONS = (
    click.option("--client", metavar="ID", callback=valid_text, help="Only jobs of this client."),
    click.option("--status", type=click.Choice([*STATUSES]), help="Only jobs with this status."),
    click.option(
        "--container",
        metavar="ID",
        callback=valid_text,
        help="Only jobs that are due in this container, or ended in it.",
    ),
    click.option(
        "--error", metavar="TEXT", callback=valid_text, help="Only failed jobs whose error contains this text."
    ),
    click.option("--since", callback=age_seconds, metavar="AGE", help="Only jobs accepted at most so long ago."),
    click.option("--until", callback=age_seconds, metavar="AGE", help="Only jobs accepted at least so long ago."),
)


def choosing(command: F) -> F:
    """Add the options that choose jobs to a command: its arguments are the fields of `Choice`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
