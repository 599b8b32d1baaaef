"""A small world for tests: machines without a cluster."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio

from nodekit.testing.simulation import Connection, Machine, World

T = TypeVar("T")


def run(main: Callable[[World], Coroutine[Any, Any, T]], *, seed: int = 1, machines: str = "a b") -> T:
    """Run a function in a new world with machines, named by letters."""
    world = World(seed, most_steps=100_000)
    for name in machines.split():
        world.machine(name)
    return world.run(lambda: main(world))


async def on(world: World, name: str, work: Callable[[Machine], Awaitable[T]]) -> T:
    """Run a function once in a process of a machine that lasts longer. Return its result, or raise its error."""
    machine, done = world.machines[name], anyio.Event()
    results, errors = list[T](), list[Exception]()

    async def main() -> None:
        try:
            results.append(await work(machine))
        except Exception as error:
            errors.append(error)
        done.set()
        await anyio.sleep_forever()

    machine.start(main)
    await done.wait()
    for error in errors:
        raise error
    return results[0]


async def read_all(stream: Connection) -> bytes:
    """Read to the end of a stream."""
    return b"".join([piece async for piece in stream])
