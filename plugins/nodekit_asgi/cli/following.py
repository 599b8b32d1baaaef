"""The events of a job as they happen, across broken connections and restarts of the node."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import TypeVar

import msgspec
from msgspec import Raw

from nodekit_asgi.cli.client import NodeClient
from nodekit_asgi.cli.diagnosis import WHERE
from nodekit_asgi.cli.job_ids import job_path
from nodekit_asgi.cli.problems import Busy, Dropped, NotANode, Unreachable
from nodekit_asgi.cli.waiting import Deadline, lasting_trouble, sleep_through

SILENT_SECONDS = 60.0
"""Time after which a silent connection is given up. A node sends a comment every 15 seconds."""

T = TypeVar("T")


class Event(msgspec.Struct, frozen=True):
    """An event of a stream of server-sent events."""

    event: str
    id: str
    data: Raw

    @property
    def number(self) -> int:
        """The place among the events of its job, from 0; -1 if its id does not say."""
        text = self.id.rpartition(":")[2]
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1


def follow_events(client: NodeClient, id: str) -> Generator[Event, None, None]:
    """Yield the events of a job from its start to its end, each once.

    Raise `Refused` if there is no such job, or any problem that lasts longer than a node takes to restart.
    """
    path, last, trouble = job_path(id, "/events"), Event("", "", Raw(b"")), lasting_trouble()
    while True:
        headers = {"Last-Event-ID": last.id} if last.id else {}
        problem: Unreachable | Busy = Dropped(f"the events of {client.address.url} ended before the job did")
        try:
            with closing(client.events(path, headers=headers, silent_seconds=SILENT_SECONDS)) as pieces:
                for event in parse_events(pieces):
                    if event.number <= last.number:
                        continue
                    last, trouble = event, lasting_trouble()
                    yield event
                    if event.event == "finished":
                        return
        except (Unreachable, Busy) as error:
            problem = error
        sleep_through(problem, trouble, Deadline(None))


def parse_events(pieces: Iterable[bytes]) -> Iterator[Event]:
    """Parse a stream of server-sent events that arrives in pieces, cut anywhere. An unfinished event is left out."""
    fields: dict[bytes, list[bytes]] = {}
    for line in _lines(pieces):
        if line:
            name, _, value = line.partition(b":")
            fields.setdefault(name, []).append(value.removeprefix(b" "))
        elif fields:
            data = b" ".join(fields.get(b"data", ()))  # newlines are white space between values of JSON
            if data:
                yield Event(_text(fields.get(b"event")), _text(fields.get(b"id")), Raw(data))
            fields = {}


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    line: list[bytes] = []  # joined once: it may be long, and come in many pieces
    for piece in pieces:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield b"".join([*line, end]).removesuffix(b"\r")
            line = []
        line.append(rest)


def _text(values: list[bytes] | None) -> str:
    return values[-1].decode(errors="replace") if values else ""


def read_event(client: NodeClient, event: Event, type: type[T]) -> T:
    """Decode the data of an event. Raise `NotANode` if no node sends it."""
    try:
        return msgspec.json.decode(event.data, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotANode(f"the server at {client.address.url} sends events as no node does; {WHERE}") from error
