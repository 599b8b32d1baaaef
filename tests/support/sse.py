"""A reader of server-sent events that follows the letter of the format (HTML, "Server-sent events")."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
from http_api import Api

_LINE = re.compile(r"(.*?)(?:\r\n|\n|\r(?!$|\n))", re.DOTALL)
"""Matches a line with its end, of any kind; an end that may still be cut in two does not match yet."""


class Event(msgspec.Struct):
    """An event as a browser gives it to a page."""

    name: str
    id: str
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Events:
    """The events of one stream. `comments` counts comment lines."""

    def __init__(self, pieces: AsyncIterator[bytes], status: int = 0, headers: Any = None) -> None:
        self.status = status
        self.headers = headers
        self.comments = 0
        self._pieces = pieces
        self._text = ""
        self._id = ""
        self._fields: dict[str, list[str]] = {}

    async def next(self, *, seconds: float = 20) -> Event | None:
        """Return the next event, or None if the stream has ended properly."""
        with anyio.fail_after(seconds):
            while True:
                while (line := self._line()) is not None:
                    if (event := self._taken(line)) is not None:
                        return event
                try:
                    self._text += (await anext(self._pieces)).decode()
                except StopAsyncIteration:
                    assert not self._text
                    assert not self._fields
                    return None

    async def rest(self) -> list[Event]:
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found

    def _line(self) -> str | None:
        if (found := _LINE.match(self._text)) is None:
            return None
        self._text = self._text[found.end() :]
        return found[1]

    def _taken(self, line: str) -> Event | None:
        name, _, value = line.partition(":")
        if line and not name:
            self.comments += 1
        elif line:
            self._fields.setdefault(name, []).append(value.removeprefix(" "))
        elif self._fields:
            fields, self._fields = self._fields, {}
            assert set(fields) <= {"event", "id", "data"}
            self._id = fields.get("id", [self._id])[-1]
            return Event(fields.get("event", ["message"])[-1], self._id, "\n".join(fields["data"]))
        return None


@asynccontextmanager
async def events(api: Api, id: str, last: str | None = None) -> AsyncIterator[Events]:
    """Open the stream of a job's events."""
    headers = {"Accept": "text/event-stream", **({} if last is None else {"Last-Event-ID": last})}
    async with api.session.get(f"{api.url}/api/jobs/{id}/events", headers=headers) as response:
        yield Events(response.content.iter_any(), response.status, response.headers)


async def all_events(api: Api, id: str, last: str | None = None) -> list[Event]:
    async with events(api, id, last) as stream:
        return await stream.rest()
