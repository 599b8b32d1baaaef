"""The methods of a store that change no queue: of a node, and of commands beside the nodes."""

from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from nodekit import (
    ClientId,
    GroupId,
    Job,
    JobFields,
    JobId,
    JobQuery,
    Page,
    Pending,
    PluginStorage,
    StepRecord,
    StoreFailed,
)
from nodekit_redis._address import Command, check
from nodekit_redis._checks import facts_of, schema_problem
from nodekit_redis._config import RedisConfig
from nodekit_redis._engine import Engine
from nodekit_redis._reading import Reading
from nodekit_redis._rows import quoted
from nodekit_redis._scripts import Scripts
from nodekit_redis._storage import Records

EXPIRED_AT_ONCE = 100
"""Number of jobs that one script deletes."""


class Reader:
    """Reads and deletes jobs, and has the records of plugins."""

    _engine: Engine
    _reading: Reading
    _tasks: TaskGroup

    def __init__(self, config: RedisConfig) -> None:
        check(config)
        self._config = config

    def _begin(self) -> Engine:
        """Prepare connections, and return them."""
        self._engine = Engine(self._config)
        self._reading = Reading(self._engine.ask, self._engine.key)
        return self._engine

    async def get(
        self, ids: Sequence[JobId], *, client: ClientId | None = None, fields: JobFields = JobFields.ALL
    ) -> list[Job]:
        return await self._reading.get(ids, client, fields)

    async def steps(self, id: JobId, first: int, most_bytes: int) -> Sequence[StepRecord]:
        return await self._reading.steps(id, first, most_bytes)

    async def find(self, query: JobQuery) -> list[JobId]:
        return await self._reading.find(query)

    async def page(self, query: JobQuery) -> Page:
        return await self._reading.page(query)

    async def sizes(self, ids: Sequence[JobId]) -> Mapping[JobId, int]:
        return await self._reading.sizes(ids)

    async def delete(self, ids: Sequence[JobId]) -> int:
        some = list(dict.fromkeys(ids))
        pieces = [some[first : first + EXPIRED_AT_ONCE] for first in range(0, len(some), EXPIRED_AT_ONCE)]
        return sum([int(await self._engine.run("delete", piece)) for piece in pieces])

    async def expire(self, *, finished_before: float | None, keep: int | None, limit: int) -> int:
        before, kept = "" if finished_before is None else repr(finished_before), "" if keep is None else keep
        deleted = 0
        while deleted < limit:
            some = min(EXPIRED_AT_ONCE, limit - deleted)
            number = int(await self._engine.run("expire", [before, kept, some]))
            deleted += number
            if number < some:
                break
        return deleted

    async def pending(self, groups: Collection[GroupId] = ()) -> Pending:
        names = list(groups)
        fields = [quoted(group) for group in names]
        commands: list[Command] = [("HMGET", self._engine.key("pending"), "offchain", "onchain")]
        if fields:
            commands.append(("HMGET", self._engine.key("groups"), *fields))
        (offchain, onchain), *rest = await self._engine.ask(commands)
        counts = {group: int(number) for group, number in zip(names, rest[0], strict=True) if number} if rest else {}
        return Pending(int(offchain or 0), int(onchain or 0), counts)

    def storage(self, namespace: str) -> PluginStorage:
        """Return the records of a plugin (`StoringStore`)."""
        return Records(namespace, self._run, self._one, Scripts(self._config.prefix).key)

    async def _run(self, script: str, arguments: Sequence[Any]) -> Any:
        return await self._engine.run(script, arguments)

    async def _one(self, *command: Any) -> Any:
        return await self._engine.one(*command)

    async def _close(self) -> None:
        self._engine.close()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)


class RedisView(Reader):
    """The jobs under a prefix, beside the nodes that work on them (`StoringView`)."""

    async def __aenter__(self) -> Self:
        engine = self._begin()
        self._tasks = await anyio.create_task_group().__aenter__()
        try:
            await engine.connect(self._tasks)
            if problem := schema_problem(await facts_of(engine)):
                raise StoreFailed(problem)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        await self._close()
        return None
