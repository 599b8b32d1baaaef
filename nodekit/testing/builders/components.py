"""Small real components, in memory unless a path is given.

No other module here imports plugins; this one does when a function is called.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import anyio

from nodekit import (
    Container,
    ContainerFailed,
    ContainerId,
    ContainerRunner,
    JobStore,
    JobTable,
    Node,
    NodeLimits,
    Pipeline,
)

if TYPE_CHECKING:
    from nodekit_function import FunctionRunner as FunctionRunner


async def _echo(data: Any) -> Any:
    return data


async def _fail(data: Any) -> Any:
    raise ContainerFailed("status", "it fails on purpose", status=500)


async def _slow(data: Any) -> Any:
    await anyio.sleep(3600)
    return data


_AT_ONCE = NodeLimits(drain_seconds=0)
_KNOWN: Mapping[ContainerId, Callable[[Any], Awaitable[Any]]] = {"echo": _echo, "fail": _fail, "slow": _slow}


def make_function_runner(
    containers: Iterable[Container] = (),
    functions: Mapping[ContainerId, Callable[[Any], Awaitable[Any]]] = MappingProxyType({}),
) -> "FunctionRunner":
    """Make a runner with the containers ``echo`` (returns its data), ``fail`` and ``slow`` (takes an hour).

    `containers` are added to these, or replace those with the same id. `functions` implement them by id; a container
    without a function returns its data.
    """
    from nodekit_function import FunctionRunner

    runner = FunctionRunner()
    known = {id: Container(id=id) for id in (*_KNOWN, *functions)} | {one.id: one for one in containers}
    for id, container in known.items():
        runner.add(container, functions.get(id) or _KNOWN.get(id, _echo))
    return runner


def make_table(path: Path | None = None) -> JobTable:
    """Make a table in memory; it outlives the store around it. With a path, its jobs survive a crash of the process."""
    if path is None:
        from nodekit_memory import MemoryTable

        return MemoryTable()
    from nodekit_sqlite import SqliteTable

    return SqliteTable(path, synchronous="OFF")  # a disk that stands still for seconds must not fail a test


def make_store() -> JobStore:
    """Make a store in memory."""
    from nodekit_memory import MemoryStore

    return MemoryStore()


def make_node(
    *,
    store: JobStore | None = None,
    runners: Sequence[ContainerRunner] | None = None,
    plugins: Sequence[object] = (),
    pipelines: Mapping[str, Pipeline] = MappingProxyType({}),
    limits: NodeLimits = _AT_ONCE,
    **settings: Any,
) -> Node:
    """Make a node in memory, to be run by ``async with``. It does not wait for running jobs when it is left.

    `settings` are further arguments of `Node`.
    """
    return Node(
        store=make_store() if store is None else store,
        runners=[make_function_runner()] if runners is None else runners,
        plugins=plugins,
        pipelines=pipelines,
        limits=limits,
        **settings,
    )
