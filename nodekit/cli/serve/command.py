"""`nodekit serve`."""

import logging
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import click
from anyio.abc import TaskStatus

from nodekit.cli.exit_codes import FAILED, bad_node_file
from nodekit.cli.serve.allocator import return_freed_memory, trim_now_and_then
from nodekit.cli.serve.log import log_to_file, log_to_standard_error, reopen_log_files
from nodekit.cli.serve.machine import hide_memory, leave_pid_1
from nodekit.config.compose import compose, log_settings
from nodekit.config.formats import file_of_the_environment, read_tables
from nodekit.errors import CompositionError, NodekitError, Problem
from nodekit.foreign_text import printable_lines
from nodekit.node.node import Node

logger = logging.getLogger("nodekit")

REPEATED_SECONDS = 1.0
"""Time in which another signal to stop is the first one again: from a wrapper that passes on what a terminal sends to
both, or from an impatient key."""
LEVELS = ("debug", "info", "warning", "error")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False), required=False)
@click.option("--bind", metavar="HOST:PORT", help="Listen at this address instead; port 0 picks a free port.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--trace-hooks", is_flag=True, help="Log each call of a plugin's hook, and how long it took.")
def serve(file: str | None, bind: str | None, log_level: str, trace_hooks: bool) -> None:
    """Run the node of a node file until SIGTERM or SIGINT.

    Without FILE, an environment variable of a format may name the file.

    The first signal drains: the node accepts no new jobs, and running jobs may finish within drain_seconds. Another
    one, a second later or more, stops it at once. In both cases, jobs in a durable store continue at the next start.
    SIGHUP opens the log file anew. Exits with 0 when stopped by a signal, 3 when the node file does not compose, 1 when
    the node fails.
    """
    leave_pid_1()
    hide_memory()
    log_to_standard_error(log_level)
    return_freed_memory()
    node = _composed(_of_the_environment() if file is None else file, bind, trace_hooks)
    try:
        anyio.run(_serve, node)
    except BaseException as error:
        sys.exit(_report(error))


def _of_the_environment() -> str:
    if (file := file_of_the_environment()) is None:
        raise click.UsageError("no FILE is given, and no environment variable of an installed format names one")
    return file


def _composed(path: str, bind: str | None, trace_hooks: bool) -> Node:
    """Compose the node of the file, start the log, and log the notices, or what sums them up."""
    try:
        file = read_tables(path)
        tables = _traced(_bound(file.tables, bind), trace_hooks)
    except CompositionError as error:
        bad_node_file(path, error)
    try:
        node = compose(tables, Path(path))
    except CompositionError as error:
        for problem in error.problems:
            if bind is not None and problem.where == "transports[0].bind":
                raise click.BadParameter(problem.text, param_hint="--bind") from error
        bad_node_file(path, file.in_the_file(error))
    if settings := log_settings(tables, Path(path)):
        log_to_file(settings)
    for line in file.notices if file.summary is None else file.summary:
        logger.warning("%s: %s", path, line)
    return node


def _bound(tables: dict[str, Any], bind: str | None) -> dict[str, Any]:
    if bind is None:
        return tables
    match tables.get("transports"):
        case [{**transport}]:
            return {**tables, "transports": [{**transport, "bind": bind}]}
        case _:
            raise CompositionError(Problem("transports", "--bind needs a node file with exactly one transport"))


def _traced(tables: dict[str, Any], trace_hooks: bool) -> dict[str, Any]:
    settings = tables.get("node", {})
    if not trace_hooks or not isinstance(settings, dict):
        return tables
    return {**tables, "node": {**settings, "trace_hooks": True}}


async def _serve(node: Node) -> None:
    stop, started, at_once = anyio.Event(), anyio.Event(), anyio.CancelScope()
    async with anyio.create_task_group() as watching:  # to the very end: leaving is not cut short
        await watching.start(_watch_signals, stop, started, at_once)
        watching.start_soon(trim_now_and_then)
        with at_once:
            async with node:
                started.set()
                for url in node.urls:
                    click.echo(f"listening on {url}")
                sys.stdout.flush()
                await stop.wait()
        logger.info("stopped")
        watching.cancel_scope.cancel()


async def _watch_signals(
    stop: anyio.Event, started: anyio.Event, at_once: anyio.CancelScope, *, task_status: "TaskStatus[None]"
) -> None:
    stopping_at = math.inf
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for received in signals:
            if received == signal.SIGHUP:
                reopen_log_files()
                logger.info("SIGHUP: the node goes on")
            elif started.is_set() and not stop.is_set():
                stopping_at = anyio.current_time()
                logger.info("%s: stopping; send it again to stop at once", received.name)
                stop.set()
            elif 0 <= anyio.current_time() - stopping_at < REPEATED_SECONDS:
                logger.info("%s: the same again; it stops already", received.name)
            else:
                logger.warning("%s: stopping at once", received.name)
                at_once.cancel()


def _report(error: BaseException) -> int:
    """Print a line for each failure, and a traceback only for errors that nobody raised on purpose."""
    for cause in _leaves(error):
        if isinstance(cause, NodekitError):
            click.echo(f"nodekit: {printable_lines(str(cause))}", err=True)
        else:
            logger.error("the node failed", exc_info=cause)
    return FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error
