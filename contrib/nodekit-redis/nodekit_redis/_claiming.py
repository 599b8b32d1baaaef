"""Claims of jobs: calls that wait until there are some, woken by news, by the time, or now and then."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from nodekit import ClaimRoom, ContainerId, GroupId, JobFields, JobId, StoreFailed, WaitingClaim, WaitingClaims
from nodekit_redis._engine import Engine
from nodekit_redis._reading import Reading
from nodekit_redis._rows import Head, head_of, quoted
from nodekit_redis._session import RedisClaim, Session

logger = logging.getLogger("nodekit.store")
MOST_AT_ONCE = 100
"""Number of jobs that one script claims."""


class Claiming:
    """The claims of one store."""

    def __init__(
        self, engine: Engine, reading: Reading, session: Session, waiting: WaitingClaims, look_seconds: float
    ) -> None:
        self._engine, self._reading, self._session = engine, reading, session
        self._waiting, self._look_seconds = waiting, look_seconds
        self.deaf: Callable[[], bool] = lambda: False
        """Returns True while no news arrives."""

    async def claim(
        self,
        containers: Collection[ContainerId],
        pipelines: Collection[str] | None,
        limit: int,
        suspects: bool,
        room: ClaimRoom | None,
    ) -> list[RedisClaim]:
        dues = sorted({quoted(container) for container in containers})
        names = None if pipelines is None else sorted({quoted(pipeline) for pipeline in pipelines})
        groups: Mapping[GroupId, int] = {} if room is None else room.groups
        arguments: list[Any] = [
            min(limit, MOST_AT_ONCE),
            int(suspects),
            *_limits(room),
            len(dues),
            -1 if names is None else len(names),
            len(groups),
            *dues,
            *(names or ()),
            *(part for group, number in groups.items() for part in (quoted(group), number)),
        ]
        with self._waiting.waiting(containers, limit) as waiting:
            return await self._wait("claim", arguments, waiting)

    async def claim_expired(self, limit: int, most_bytes: int | None) -> list[RedisClaim]:
        most = "" if most_bytes is None else most_bytes
        with self._waiting.waiting(None, limit) as waiting:
            return await self._wait("claim_expired", [min(limit, MOST_AT_ONCE), most], waiting)

    async def _wait(self, script: str, arguments: Sequence[Any], waiting: WaitingClaim) -> list[RedisClaim]:
        """Look for jobs, and wait for news or for the time at which there may be some, until there are any."""
        while True:
            waiting.begin_look()
            claims, pause = list[RedisClaim](), self._look_seconds
            try:
                claims, seconds = await self._look(script, arguments)
                if seconds is not None:
                    pause = min(seconds, pause)
            except StoreFailed as error:
                logger.debug("jobs cannot be claimed now: %s", error)
                pause = min(self._session.lease_seconds / 20, 1.0)
            waiting.end_look(claim.job.id for claim in claims)
            if claims:
                return claims
            await waiting.wait(min(pause, 1.0) if self.deaf() else pause)

    async def _look(self, script: str, arguments: Sequence[Any]) -> tuple[list[RedisClaim], float | None]:
        """Claim jobs. Without any, return the time until some may be due, too. What nobody gets is given back."""
        session = self._session
        token = session.claims.ask()

        def undo(answer: Any) -> None:
            session.give_back(token, _ids(answer))

        try:
            answer = await self._engine.run(script, [session.id, token, *arguments], undo=undo)
        except StoreFailed:
            session.give_back(token, ())
            raise
        if answer[0] < 0:  # the session is over, and the next beat begins a new one
            session.give_back(token, ())
            return [], session.lease_seconds / 20
        if not answer[0]:
            session.claims.answered(token)
            return [], float(answer[1]) if answer[1] else None
        try:
            claims = await self._claims(token, answer[1])
        except BaseException:
            undo(answer)
            raise
        session.claims.answered(token, claims)
        return claims, None

    async def _claims(self, token: str, rows: Sequence[Any]) -> list[RedisClaim]:
        heads, facts = list[Head](), list[tuple[int, float]]()
        for id, state, client, names, takeovers, age in rows:
            head = head_of(id.decode(), (state, client, names, None, None))
            if head is not None:
                heads.append(head)
                facts.append((int(takeovers), float(age)))
        jobs = await self._reading.whole(heads, JobFields.RUN)
        return [RedisClaim(job, token, *fact) for job, fact in zip(jobs, facts, strict=True) if job is not None]


def _limits(room: ClaimRoom | None) -> list[Any]:
    if room is None:
        return ["", ""]
    return ["" if room.most_bytes is None else room.most_bytes, room.each]


def _ids(answer: Any) -> list[JobId]:
    """Return the ids of the jobs that a script has claimed."""
    return [row[0].decode() for row in answer[1]] if answer[0] == 1 else []
