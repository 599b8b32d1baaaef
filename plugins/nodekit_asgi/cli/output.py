"""Output of commands: results on standard output as UTF-8, notices on standard error.

Nodes, containers and other clients wrote much of it, and no character of it may command a terminal. Texts are escaped.
JSON and streams are escaped at a terminal, and go into files and pipes byte for byte.
"""

import sys
from collections.abc import Iterable, Sequence

import click
import msgspec
from msgspec import UNSET, Raw

from nodekit import printable, printable_json, printable_lines, printable_pieces
from nodekit_asgi.cli.replies import JobResult, StepResult


def one_line(text: str) -> str:
    """Return the text in one line, fit for a terminal."""
    return printable(text.replace("\n", " "), keep="")


def say(text: str) -> None:
    click.echo(printable_lines(text).encode())


def notice(text: str) -> None:
    click.echo(f"nodekit: {one_line(text)}", err=True)


def say_json(value: bytes | Raw) -> None:
    """Print JSON as the node wrote it; at a terminal, an equal document without control characters."""
    click.echo(printable_json(bytes(value)).encode() if sys.stdout.isatty() else bytes(value))


def say_pieces(pieces: Iterable[bytes]) -> None:
    """Print bytes as they come; at a terminal as text, with escapes for what is not printable text in UTF-8."""
    out = sys.stdout.buffer
    for piece in (text.encode() for text in printable_pieces(pieces)) if sys.stdout.isatty() else pieces:
        out.write(piece)
        out.flush()


def say_json_list(items: Iterable[Raw]) -> None:
    say_json(b"[" + b",".join(bytes(item) for item in items) + b"]")


def say_output(output: Raw) -> None:
    """Print an output as the container wrote it. At a terminal it is indented, with every digit kept."""
    say_json(msgspec.json.format(bytes(output), indent=2) if sys.stdout.isatty() else output)


def say_result(result: StepResult) -> None:
    if result.output is not UNSET:
        say_output(result.output)
    else:
        say(f"error: {one_line(result.error or 'no text')}")


def say_job(job: JobResult, *, intermediate: bool) -> None:
    """Print a line with id and status of a job, and then its output or error."""
    say(one_line("  ".join([job.id, job.status, *([job.result.container] if job.result else [])])))
    for step in job.intermediate_results if intermediate else ():
        say(f"step {one_line(step.container)}:")
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
