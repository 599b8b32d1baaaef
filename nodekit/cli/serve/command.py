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
from nodekit.cli.serve.collector import collect_seldom
from nodekit.cli.serve.log.node_log import NodeLog
from nodekit.cli.serve.machine import hide_memory, leave_pid_1
from nodekit.cli.serve.systemd import Systemd
from nodekit.config.compose import compose, log_settings
from nodekit.config.formats import NodeTables, file_of_the_environment, read_file
from nodekit.config.log_settings import LEVELS
from nodekit.config.paths import with_home
from nodekit.errors import CompositionError, NodekitError, NotStarted, Problem
from nodekit.model.version import __version__
from nodekit.node.node import Node

logger = logging.getLogger("nodekit")

_LISTS = ("runners", "transports", "pipelines", "plugins")

REPEATED_SECONDS = 1.0
"""Time in which another signal to stop is the first one again: from a wrapper that passes on what a terminal sends to
both, or from an impatient key."""


@click.command()
@click.argument("file", type=click.Path(dir_okay=False), required=False)
@click.option("--bind", metavar="HOST:PORT", help="Listen at this address instead; port 0 picks a free port.")
@click.option("--log-level", type=click.Choice(LEVELS), help="Instead of those of the node file; info by default.")
@click.option("--trace-hooks", is_flag=True, help="Log each call of a plugin's hook, and how long it took.")
def serve(file: str | None, bind: str | None, log_level: str | None, trace_hooks: bool) -> None:
    """Run the node of a node file until SIGTERM or SIGINT.

    Without FILE, an environment variable of a format may name the file.

    The first signal drains: the node accepts no new jobs, and running jobs may finish within drain_seconds. Another
    one, a second later or more, stops it at once. In both cases, jobs in a durable store continue at the next start.
    SIGHUP opens the log files anew. Exits with 0 when stopped by a signal, 3 when the node file does not compose, 1
    when the node fails.
    """
    leave_pid_1()
    hide_memory()
    return_freed_memory()
    systemd = Systemd.of_the_environment()
    path = _of_the_environment() if file is None else file
    with NodeLog(log_level) as log:
        node, tables, about = _composed(path, bind, trace_hooks, log)
        try:
            anyio.run(_serve, node, log, systemd, about)
        except BaseException as error:
            sys.exit(_report(error, path, tables))


def _of_the_environment() -> str:
    if (file := file_of_the_environment()) is None:
        raise click.UsageError(
            "no FILE is given, and no environment variable of an installed format names one; name the node file"
        )
    try:
        return with_home(file)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _composed(path: str, bind: str | None, trace_hooks: bool, log: NodeLog) -> tuple[Node, NodeTables, str]:
    """Compose the node of the file, start its log, and log the notices.

    Return it with its tables, and what it is composed of.
    """
    try:
        file = read_file(path)
        tables = _traced(_bound(file.tables, bind), trace_hooks)
    except CompositionError as error:
        bad_node_file(path, error)
    try:
        node = compose(tables, Path(path), file.problems)
    except CompositionError as error:
        for problem in error.problems:
            if bind is not None and problem.where == "transports[0].bind":
                raise click.BadParameter(problem.text, param_hint="--bind") from error
        bad_node_file(path, file.in_the_file(error))
    log.begin(log_settings(tables, Path(path)))
    for line in file.notices if file.summary is None else file.summary:
        logger.warning("%s: %s", path, line)
    return node, file, f"{_components(tables)}; node file {Path(path).absolute()}"


def _components(tables: dict[str, Any]) -> str:
    """Return the names of the providers of a valid node file."""
    lists = {kind: [table["use"] for table in tables.get(kind, ())] for kind in _LISTS}
    named = [f"{kind} {', '.join(names)}" for kind, names in lists.items() if names]
    return "; ".join([f"store {tables['store']['use']}", *named])


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


async def _serve(node: Node, log: NodeLog, systemd: Systemd, about: str) -> None:
    stop, started, at_once = anyio.Event(), anyio.Event(), anyio.CancelScope()
    async with anyio.create_task_group() as watching:  # to the very end: leaving is not cut short
        await watching.start(_watch_signals, stop, started, at_once, log, systemd)
        watching.start_soon(trim_now_and_then)
        watching.start_soon(systemd.report, node)
        with at_once:
            async with node:
                started.set()
                collect_seldom()
                for url in node.urls:
                    click.echo(f"listening on {url}")
                systemd.ready()
                where = ", ".join(node.urls) or "no address"
                logger.info("nodekit %s: node %s at %s; %s", __version__, node.name, where, about)
                await stop.wait()
                systemd.stopping(node.limits.drain_seconds)
        logger.info("stopped")
        watching.cancel_scope.cancel()


async def _watch_signals(
    stop: anyio.Event,
    started: anyio.Event,
    at_once: anyio.CancelScope,
    log: NodeLog,
    systemd: Systemd,
    *,
    task_status: "TaskStatus[None]",
) -> None:
    stopping_at = math.inf
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for received in signals:
            if received == signal.SIGHUP:
                files = ", ".join(map(str, log.reopen())) or "no log file"
                systemd.reloaded()
                logger.info("SIGHUP: opens %s anew; the node goes on", files)
            elif started.is_set() and not stop.is_set():
                stopping_at = anyio.current_time()
                logger.info("%s: stopping; send it again to stop at once", received.name)
                stop.set()
            elif 0 <= anyio.current_time() - stopping_at < REPEATED_SECONDS:
                logger.info("%s: the same again; it stops already", received.name)
            else:
                logger.warning("%s: stopping at once", received.name)
                systemd.stopping(0)
                at_once.cancel()


def _report(error: BaseException, path: str, file: NodeTables) -> int:
    """Print a line for each failure, and a traceback only for errors that nobody raised on purpose.

    The failure of a container begins with its place in the node file.
    """
    for cause in _leaves(error):
        if isinstance(cause, NotStarted):
            where = file.place_of_container(cause.container)
            extra = {"container": cause.container}
            logger.error("%s%s", f"{path}: {where}: " if where else "", cause.text, extra=extra)
        elif isinstance(cause, NodekitError):
            logger.error("%s", cause)
        else:
            logger.error("the node failed", exc_info=cause)
    return FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    elif isinstance(error, NotStarted):
        yield error
        for other in error.others:
            yield from _leaves(other)
    else:
        yield error
