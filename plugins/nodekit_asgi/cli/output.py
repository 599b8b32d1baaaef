"""Output of commands: results on standard output as UTF-8, notices on standard error."""

import re
import sys
from collections.abc import Iterable, Sequence

import click
import msgspec
from msgspec import UNSET, Raw

from nodekit_asgi.cli.replies import JobResult, StepResult

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def printable(text: str) -> str:
    """Return the text in one line, without control characters for the terminal: much of it was written by others."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}" if found[0] != "\n" else " ", text)


def say(text: str) -> None:
    click.echo(text.encode(errors="backslashreplace"))


def notice(text: str) -> None:
    click.echo(f"nodekit: {printable(text)}", err=True)


def say_json(value: bytes | Raw) -> None:
    """Print JSON as the node wrote it."""
    click.echo(bytes(value))


def say_json_list(items: Iterable[Raw]) -> None:
    say_json(b"[" + b",".join(bytes(item) for item in items) + b"]")


def say_output(output: Raw) -> None:
    """Print an output as the container wrote it. At a terminal it is indented, with every digit kept."""
    if not sys.stdout.isatty():
        return say_json(output)
    text = msgspec.json.format(bytes(output), indent=2).decode(errors="replace")
    return say("\n".join(re.sub(r"[\x7f-\x9f]", lambda c: f"\\u{ord(c[0]):04x}", line) for line in text.split("\n")))


def say_result(result: StepResult) -> None:
    if result.output is not UNSET:
        say_output(result.output)
    else:
        say(f"error: {printable(result.error or 'no text')}")


def say_job(job: JobResult, *, intermediate: bool) -> None:
    """Print a line with id and status of a job, and then its output or error."""
    say("  ".join([job.id, job.status, *([printable(job.result.container)] if job.result else [])]))
    for step in job.intermediate_results if intermediate else ():
        say(f"step {printable(step.container)}:")
        say_result(step)
    if job.result:
        if intermediate:
            say("result:")
        say_result(job.result)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Format rows as lines. Each column is as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    padded = ((cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return ["  ".join(cells).rstrip() for cells in padded]
