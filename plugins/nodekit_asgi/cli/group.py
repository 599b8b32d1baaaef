"""The command group `nodekit job`. It turns each problem of a command into one line and an exit code."""

import sys
from typing import Any

import click

from nodekit_asgi.cli.cures import with_cure
from nodekit_asgi.cli.output import notice
from nodekit_asgi.cli.problems import INTERRUPTED, CommandFailed
from nodekit_asgi.cli.signals import interrupted_by_signals


class _Group(click.Group):
    """A command group that prints each problem in one line and exits with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        with interrupted_by_signals():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CommandFailed as problem:
            notice(with_cure(problem))
            sys.exit(problem.exit_code)
        except KeyboardInterrupt:
            notice("interrupted")
            sys.exit(INTERRUPTED)


@click.group(cls=_Group)
def job() -> None:
    """Submit jobs to a node, and read their results.

    The node is the one at --node, or at NODEKIT_URL. Exits with 0; 1 when the job failed or the node refuses the
    request; 2 for a wrong command line; 4 when no node answers or it is busy; 5 when time is up; 130 after Ctrl-C;
    129 and 143 after SIGHUP and SIGTERM.
    """
