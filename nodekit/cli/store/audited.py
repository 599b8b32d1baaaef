"""The audit log of commands on the store of a node file."""

import getpass
import logging
import os
import time
from pathlib import Path

import click

from nodekit.cli.serve.log.formats import formatter
from nodekit.cli.serve.log.line_writer import LineWriter
from nodekit.cli.serve.log.log_file import LogFile
from nodekit.cli.serve.log.node_log import LAST_SECONDS, LogHandler
from nodekit.config.compose import log_settings
from nodekit.config.formats import read_file
from nodekit.config.log_settings import AUDIT
from nodekit.errors import CompositionError


def audited(file: str, action: str, text: str) -> None:
    """Log that the system's user has done something to jobs, if the node file wants an audit log.

    The line goes to the file of the audit log or of the log, or to standard error. The file is never renamed here: the
    node may have it open.
    """
    try:
        settings = log_settings(read_file(file).tables, Path(file))
    except CompositionError as error:  # the store was valid, and it has been done
        _not_logged(f"it is not in the audit log: {error.problems[0]}")
        return
    if not settings.audit:
        return
    user = _user()
    handler = LogHandler()
    handler.setFormatter(formatter(settings.format))
    record = logging.LogRecord(AUDIT, logging.INFO, "", 0, "user %s: %s: %s", (user, action, text), None)
    vars(record).update(user=user, action=action)
    path = settings.audit if isinstance(settings.audit, str) else settings.path
    if path is None:
        click.echo(handler.line(record).decode(), err=True, nl=False)
        return
    writer = LineWriter(
        LogFile(Path(path), 0, 0),
        f"the log file {path}",
        notice=handler.notice,
        report=_not_logged,
        instead=lambda line: click.echo(line.decode(), err=True, nl=False),
    )
    handler.writers.append(writer)
    handler.emit(record)
    writer.close()
    writer.wait(time.monotonic() + LAST_SECONDS)


def _not_logged(text: str) -> None:
    click.echo(f"nodekit: {text.partition(';')[0]}", err=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user has no name
        return str(os.getuid())
