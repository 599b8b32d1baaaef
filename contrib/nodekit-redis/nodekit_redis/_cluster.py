"""The knowledge that nodes share through the server: of each other, and of the work of all."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from nodekit import (
    REMEMBERED_SECONDS,
    Announcement,
    ContainerId,
    Held,
    JobId,
    Member,
    QueueState,
    StoreFailed,
)
from nodekit_redis._engine import Engine
from nodekit_redis._rows import unquoted
from nodekit_redis._session import Session

_decode = msgspec.json.Decoder(Announcement).decode


class Cluster:
    """The announcements, the clock, the queues and the claims of all nodes."""

    def __init__(self, engine: Engine, session: Session) -> None:
        self._engine, self._session = engine, session

    async def announce(self, announcement: Announcement) -> None:
        given = [announcement.incarnation, msgspec.json.encode(announcement), REMEMBERED_SECONDS]
        if not await self._engine.run("announce", [self._session.id, *given]):
            raise StoreFailed("the lease of this node is over; it begins a new one, and is announced then")

    async def _incarnations(self) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        """Return the announcements and the sessions of incarnations."""
        announced, sessions = await self._engine.ask(
            [("HGETALL", self._engine.key("announced")), ("HGETALL", self._engine.key("session_of"))]
        )
        return _pairs(announced), _pairs(sessions)

    async def nodes(self) -> Sequence[Member]:
        announced, session_of = await self._incarnations()
        lapses, seen, now = await self._engine.ask(
            [
                ("ZRANGE", self._engine.key("sessions"), 0, -1, "WITHSCORES"),
                ("HGETALL", self._engine.key("seen")),
                ("TIME",),
            ]
        )
        time = seconds(now)
        lapses_at, seen_at = _pairs(lapses), _pairs(seen)
        members = [
            Member(_decode(body), float(seen_at.get(session, 0)), float(lapses_at.get(session, 0)) >= time)
            for incarnation, body in sorted(announced.items())
            if (session := session_of.get(incarnation)) is not None
        ]
        return [one for one in members if one.live or one.seen_at > time - REMEMBERED_SECONDS]

    async def now(self) -> float:
        return seconds(await self._engine.one("TIME"))

    async def held(self, ids: Collection[JobId]) -> Mapping[JobId, Held]:
        ids = list(dict.fromkeys(ids))
        replies = await self._engine.ask(
            [("HMGET", self._engine.key(f"job:{id}"), "owner", "since", "steps", "attempt") for id in ids]
        )
        claimed = {id: facts for id, facts in zip(ids, replies, strict=True) if facts[0]}
        if not claimed:
            return {}
        announced, session_of = await self._incarnations()
        names = {session: _decode(announced[one]).name for one, session in session_of.items() if one in announced}
        return {
            id: Held(names[owner], float(since), int(step), int(attempt))
            for id, (owner, since, step, attempt) in claimed.items()
            if owner in names
        }

    async def queues(self) -> Mapping[ContainerId, QueueState]:
        dues = list(await self._engine.one("SMEMBERS", self._engine.key("dues")))
        keys = [self._engine.key("waiting:") + due.decode() for due in dues]
        commands = [part for key in keys for part in (("ZCARD", key), ("ZRANGE", key, 0, 0, "WITHSCORES"))]
        now, *replies = await self._engine.ask([("TIME",), *commands])
        queues: dict[ContainerId, QueueState] = {}
        for due, jobs, first in zip(dues, replies[::2], replies[1::2], strict=True):
            if jobs and first:
                queues[unquoted(due)] = QueueState(jobs, max(0.0, seconds(now) - float(first[1])))
        return queues


def seconds(reply: Any) -> float:
    """Return the reply of the command TIME in Unix seconds."""
    return int(reply[0]) + int(reply[1]) / 1_000_000


def _pairs(reply: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(reply[::2], reply[1::2], strict=True))
