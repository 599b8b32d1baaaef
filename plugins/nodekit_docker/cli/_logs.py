"""`nodekit logs`."""

import sys
import time
from collections.abc import Iterator

import click

from nodekit_docker._errors import EngineGone, EngineRefused
from nodekit_docker._state import State
from nodekit_docker.cli._node import Asked, Entry, explained

LOOK_SECONDS = 0.5


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.argument("id")
@click.option("-f", "--follow", is_flag=True, help="Go on with what it prints, and what its successors do.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="LINES", help="Only the last lines; all unless said.")
def logs(file: str, id: str, follow: bool, tail: int | None) -> None:
    """What a Docker container of a node file has printed.

    A container that is made anew after its death begins a log of its own; the last lines of the dead one stand in the
    node's log. Exits with 0, 3 when the node file does not compose, 1 when there is no such container.
    """
    with explained(file):
        asked = Asked(file)
        entry = next((entry for entry in asked.entries if entry.id == id), None)
        if entry is None:
            known = ", ".join(entry.id for entry in asked.entries) or "none"
            raise click.ClickException(f"{file} has no container {id!r} in Docker; known: {known}")
        state = asked.state(entry)
        if state is None and not follow:
            raise click.ClickException(f"container {id!r} is not there; is the node running? -f waits for it")
        for piece in _followed(asked, entry, state, tail) if follow else _printed(asked, entry, state, tail):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


def _printed(
    asked: Asked, entry: Entry, state: State | None, tail: int | None, *, follow: bool = False
) -> Iterator[bytes]:
    if state is None:
        return
    settings = {"stream": True, "follow": follow, "tail": "all" if tail is None else tail}
    pieces: Iterator[bytes] = asked.ask(entry, lambda api: api.logs(state.id, **settings))
    yield from asked.engine(entry.host).iterated(pieces)


def _followed(asked: Asked, entry: Entry, state: State | None, tail: int | None) -> Iterator[bytes]:
    """For ever: also what comes after an engine that was gone, and from the next container of this entry."""
    seen = ""
    while True:
        try:
            if state is not None and (run := f"{state.id} {state.started_at}") != seen:
                seen = run
                yield from _printed(asked, entry, state, tail, follow=True)
                tail = None
            state = asked.state(entry)
        except (EngineGone, EngineRefused):
            pass  # the node's log says so
        time.sleep(LOOK_SECONDS)
