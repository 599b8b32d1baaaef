"""Exit codes, the same for every command."""

import sys
from typing import NoReturn

import click

from nodekit.errors import CompositionError
from nodekit.model.counting import counted

FAILED = 1
"""The node failed to start, or while it ran."""
USAGE = 2
"""The command line is wrong (click's own)."""
BAD_NODE_FILE = 3
"""The node file does not compose."""
MOST_SHOWN = 100
"""Maximum number of problems that are printed."""


def bad_node_file(path: str, error: CompositionError) -> NoReturn:
    """Print every problem on a line of its own, and exit."""
    for problem in error.problems[:MOST_SHOWN]:
        click.echo(str(problem) if problem.where == path else f"{path}: {problem}", err=True)
    if (more := len(error.problems) - MOST_SHOWN) > 0:
        click.echo(f"{path}: {counted(more, 'more problem', 'is', 'are')} not shown; correct these first", err=True)
    sys.exit(BAD_NODE_FILE)
