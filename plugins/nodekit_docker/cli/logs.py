"""`nodekit logs`."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from typing import Any

import click

from nodekit import printable_pieces
from nodekit_docker.cli.node_file import Asked, Entry, explained
from nodekit_docker.containers.state import State
from nodekit_docker.engine.errors import EngineGone, EngineRefused

LOOK_SECONDS = 0.5


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.argument("id")
@click.option("-f", "--follow", is_flag=True, help="Follow the output, also of the containers that replace this one.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="LINES", help="Only the last lines; by default all.")
def logs(file: str, id: str, follow: bool, tail: int | None) -> None:
    """Print the output of a Docker container of a node file. At a terminal, control characters are escaped.

    A container that is recreated after its death begins a new log; the last lines of the dead one stand in the
    node's log. Exits with 0, 3 when the node file does not compose, 1 when there is no such container.
    """
    with explained(file), closing(Asked(file)) as asked:
        entry = next((entry for entry in asked.entries if entry.id == id), None)
        if entry is None:
            known = ", ".join(entry.id for entry in asked.entries) or "none"
            raise click.ClickException(f"{file} has no container {id!r} in Docker; known: {known}")
        if entry.once:
            text = (
                f"{id!r} is a program, whose output is not kept; the last lines of a failed step are in the node's log"
            )
            raise click.ClickException(text)
        state = asked.state(entry)
        if state is None and not follow:
            raise click.ClickException(f"container {id!r} is not there; is the node running? -f waits for it")
        pieces = _followed(asked, entry, tail) if follow else _Log(asked, entry, tail).printed(state, follow=False)
        for piece in shown_pieces(pieces) if sys.stdout.isatty() else pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


def shown_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the output for a terminal, which a container must not command."""
    return (text.encode() for text in printable_pieces(pieces))


class _Log:
    """The output of the containers of one entry, each line once."""

    def __init__(self, asked: Asked, entry: Entry, tail: int | None) -> None:
        self._asked = asked
        self._entry = entry
        self._tail = tail
        self._seen: dict[str, float] = {}
        """Time up to which output was read, by container."""

    def printed(self, state: State | None, *, follow: bool) -> Iterator[bytes]:
        if state is None:
            return
        settings: dict[str, Any] = {
            "stream": True,
            "follow": follow,
            "tail": "all" if self._tail is None else self._tail,
        }
        if state.id in self._seen:
            settings["since"] = self._seen[state.id]
        elif self._seen:  # a successor: its whole log is new
            settings["tail"] = "all"
        try:
            pieces: Iterator[bytes] = self._asked.ask(self._entry, lambda api: api.logs(state.id, **settings))
            yield from self._asked.engine(self._entry.host).iterated(pieces)
        finally:
            self._seen[state.id] = time.time()


def _followed(asked: Asked, entry: Entry, tail: int | None) -> Iterator[bytes]:
    """Yield output for ever, also from the entry's next containers and after the engine was gone for a while."""
    log = _Log(asked, entry, tail)
    ended = ""
    while True:
        with suppress(EngineGone, EngineRefused):  # the node's log reports these
            state = asked.state(entry)
            if state is not None and (state.running or state.id != ended):
                yield from log.printed(state, follow=True)
                ended = state.id
        time.sleep(LOOK_SECONDS)
