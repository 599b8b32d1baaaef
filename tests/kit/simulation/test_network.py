"""The simulated network: order, latency, links that are cut, and connections that end in every way."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import pytest
from kit.simulation.worlds import on, read_all, run

from nodekit.testing.simulation import Connection, Machine, World
from nodekit.testing.simulation.network import LONGEST_SECONDS, SHORTEST_SECONDS, WINDOW_BYTES

T = TypeVar("T")


async def keep(stream: Connection) -> None:
    """Keep a connection open, and read nothing."""
    await anyio.sleep_forever()


async def echo(stream: Connection) -> None:
    """Send back what comes, to the end."""
    async with stream:
        with suppress(anyio.BrokenResourceError):
            async for piece in stream:
                await stream.send(piece)


class Inbox:
    """A handler that notes what arrives, and when."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.pieces: list[tuple[float, bytes]] = []
        self.ended: list[str] = []

    async def __call__(self, stream: Connection) -> None:
        async with stream:
            try:
                async for piece in stream:
                    self.pieces.append((self._world.loop.now, piece))
                self.ended.append("end")
            except anyio.BrokenResourceError:
                self.ended.append("broken")

    @property
    def data(self) -> bytes:
        return b"".join(piece for _, piece in self.pieces)


def connected(
    work: Callable[[World, Connection], Awaitable[T]],
    handle: Callable[[World], Any] = lambda world: echo,
    seed: int = 1,
) -> T:
    """Run a function on `a` with a connection to `b`, where a handler serves it."""

    async def main(world: World) -> T:
        world.machines["b"].start(lambda: world.machines["b"].listen(handle(world)))

        async def use(machine: Machine) -> T:
            await anyio.sleep(0.1)
            return await work(world, await machine.connect("b"))

        return await on(world, "a", use)

    return run(main, seed=seed)


# -- bytes ----------------------------------------------------------------------------------------


def test_bytes_arrive_in_the_order_in_which_they_were_sent() -> None:
    sent = [f"{number} ".encode() for number in range(200)]

    async def send(world: World, stream: Connection) -> bytes:
        for piece in sent:
            await stream.send(piece)
        await stream.send_eof()
        return await read_all(stream)

    for seed in range(10):
        assert connected(send, seed=seed) == b"".join(sent)


def test_their_order_does_not_depend_on_rounding() -> None:
    async def main(world: World) -> bytes:
        inbox, machine = Inbox(world), world.machines["b"]
        world.network.slow("a", "b", 3.0)
        machine.start(lambda: machine.listen(inbox))

        async def send(machine: Machine) -> None:
            stream = await machine.connect("b")
            for number in range(100):
                await stream.send(bytes([number]))
            world.network.slow("a", "b", 0.0)
            for number in range(100, 200):
                await stream.send(bytes([number]))
            await anyio.sleep(10)

        await on(world, "a", send)
        return inbox.data

    for seed in range(10):
        assert run(main, seed=seed) == bytes(range(200))


def test_each_way_takes_the_latency_of_the_link() -> None:
    async def ask(world: World, stream: Connection) -> list[float]:
        took: list[float] = []
        for seconds in (0.0, 0.5):
            world.network.slow("a", "b", seconds)
            began_at = world.loop.now
            await stream.send(b"hello")
            await stream.receive()
            took.append(world.loop.now - began_at - 2 * seconds)
        return took

    for took in connected(ask):
        assert 2 * SHORTEST_SECONDS < took < 2 * LONGEST_SECONDS + 0.001


def test_a_reader_gets_no_more_than_it_asks_for() -> None:
    async def ask(world: World, stream: Connection) -> list[bytes]:
        await stream.send(b"hello")
        return [await stream.receive(2), await stream.receive(2), await stream.receive(2)]

    assert connected(ask) == [b"he", b"ll", b"o"]


def test_a_sender_waits_while_nobody_reads() -> None:
    async def send(world: World, stream: Connection) -> int:
        sent = 0
        with anyio.move_on_after(60):
            while True:
                await stream.send(bytes(1024))
                sent += 1024
        return sent

    assert connected(send, lambda world: keep) == WINDOW_BYTES + 1024


def test_a_sender_that_waits_goes_on_when_it_is_read() -> None:
    async def read_late(stream: Connection) -> None:
        await anyio.sleep(100)
        await read_all(stream)

    async def send(world: World, stream: Connection) -> float:
        for _ in range(3):
            await stream.send(bytes(WINDOW_BYTES))
        return world.loop.now

    assert 100 < connected(send, lambda world: read_late) < 101


def test_a_sender_that_waits_learns_that_its_reader_has_gone() -> None:
    async def leave(stream: Connection) -> None:
        await anyio.sleep(100)
        await stream.aclose()

    async def send(world: World, stream: Connection) -> float:
        await stream.send(bytes(WINDOW_BYTES + 1))
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"more")
        return world.loop.now

    assert 100 < connected(send, lambda world: leave) < 101


# -- ends -----------------------------------------------------------------------------------------


def test_a_half_closed_connection_still_carries_the_answer() -> None:
    async def answer(stream: Connection) -> None:
        question = await read_all(stream)
        await anyio.sleep(1)
        await stream.send(question + b"!")
        await stream.aclose()

    async def ask(world: World, stream: Connection) -> bytes:
        await stream.send(b"hello")
        await stream.send_eof()
        return await read_all(stream)

    assert connected(ask, lambda world: answer) == b"hello!"


def test_what_was_sent_before_the_end_is_read_before_the_end() -> None:
    async def main(world: World) -> tuple[bytes, list[str]]:
        inbox, machine = Inbox(world), world.machines["b"]
        machine.start(lambda: machine.listen(inbox))

        async def send(machine: Machine) -> None:
            async with await machine.connect("b") as stream:
                await stream.send(b"one ")
                await stream.send(b"two")
            await anyio.sleep(1)

        await on(world, "a", send)
        return inbox.data, inbox.ended

    assert run(main) == (b"one two", ["end"])


def test_a_connection_that_one_side_closed_breaks_for_the_other_when_it_sends() -> None:
    async def leave(stream: Connection) -> None:
        await stream.aclose()

    async def send(world: World, stream: Connection) -> float:
        await anyio.sleep(1)
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        await stream.send(b"into the void")
        await anyio.sleep(1)
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"more")
        return world.loop.now

    assert connected(send, lambda world: leave) > 2


def test_a_connection_that_is_closed_here_is_used_no_more() -> None:
    async def use(world: World, stream: Connection) -> None:
        await stream.send(b"hello")
        await anyio.sleep(1)
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"hello")

    connected(use)


def test_a_reader_that_waits_learns_that_its_own_end_is_closed() -> None:
    async def use(world: World, stream: Connection) -> None:
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                with pytest.raises(anyio.ClosedResourceError):
                    await stream.receive()

            tasks.start_soon(read)
            await anyio.sleep(1)
            await stream.aclose()

    connected(use)


# -- links ----------------------------------------------------------------------------------------


def test_what_is_sent_over_a_link_that_is_cut_arrives_in_order_once_it_is_whole() -> None:
    async def ask(world: World, stream: Connection) -> tuple[bool, bytes, float]:
        world.network.cut("b", "a")
        for number in range(10):
            await stream.send(bytes([number]))
        with anyio.move_on_after(50) as limit:
            await stream.receive()
        world.network.heal("a", "b")
        await stream.send(bytes([10]))
        await stream.send_eof()
        return limit.cancelled_caught, await read_all(stream), world.loop.now

    waited, data, now = connected(ask)
    assert waited
    assert data == bytes(range(11))
    assert 50 < now < 51


def test_a_link_that_is_cut_is_no_matter_for_other_links() -> None:
    async def ask(world: World, stream: Connection) -> bytes:
        world.machine("c")
        world.network.cut("a", "c")
        await stream.send(b"hello")
        return await stream.receive()

    assert connected(ask) == b"hello"


def test_who_connects_over_a_link_that_is_cut_waits_until_it_is_whole() -> None:
    async def main(world: World) -> float:
        world.machines["b"].start(lambda: world.machines["b"].listen(keep))
        world.network.cut("a", "b")
        world.loop.after(20, world.network.heal, "a", "b")

        async def connect(machine: Machine) -> float:
            await machine.connect("b")
            return world.loop.now

        return await on(world, "a", connect)

    assert 20 < run(main) < 21


def test_a_reset_breaks_both_ends_and_loses_what_is_on_its_way() -> None:
    async def main(world: World) -> tuple[bytes, list[str]]:
        inbox, machine = Inbox(world), world.machines["b"]
        machine.start(lambda: machine.listen(inbox))

        async def use(machine: Machine) -> None:
            stream = await machine.connect("b")
            await stream.send(b"arrives")
            await anyio.sleep(1)
            await stream.send(b"is lost")
            world.network.reset("b", "a")
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await stream.send(b"more")
            await anyio.sleep(1)

        await on(world, "a", use)
        return inbox.data, inbox.ended

    assert run(main) == (b"arrives", ["broken"])


def test_a_reset_leaves_other_links_and_later_connections_alone() -> None:
    async def ask(world: World, stream: Connection) -> bytes:
        world.machine("c")
        world.network.reset("a", "c")
        await stream.send(b"hello ")
        answer = await stream.receive()
        world.network.reset("a", "b")
        again = await world.machines["a"].connect("b")
        await again.send(b"again")
        return answer + await again.receive()

    assert connected(ask) == b"hello again"


# -- listeners ------------------------------------------------------------------------------------


async def refused(world: World) -> str:
    async def connect(machine: Machine) -> str:
        with pytest.raises(OSError, match="b refuses the connection") as error:
            await machine.connect("b")
        return type(error.value).__name__

    return await on(world, "a", connect)


def test_a_machine_where_nobody_listens_refuses_connections() -> None:
    assert run(refused) == "ConnectionRefusedError"


@pytest.mark.parametrize("end", ["killed", "left"])
def test_a_machine_whose_listener_has_ended_refuses_connections(end: str) -> None:
    async def main(world: World) -> str:
        machine = world.machines["b"]

        async def listen() -> None:
            with anyio.move_on_after(1):
                await machine.listen(keep)
            await anyio.sleep_forever()

        machine.start(listen)
        await anyio.sleep(0.5)
        if end == "killed":
            machine.kill()
        await anyio.sleep(1)
        return await refused(world)

    assert run(main) == "ConnectionRefusedError"


def test_the_connections_of_a_process_that_is_killed_end() -> None:
    async def use(world: World, stream: Connection) -> None:
        await stream.send(b"hello")
        await stream.receive()
        world.machines["b"].kill()
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()

    connected(use)


def test_a_process_that_is_killed_with_unread_bytes_breaks_its_connection() -> None:
    async def use(world: World, stream: Connection) -> None:
        await stream.send(b"hello")
        await anyio.sleep(1)
        world.machines["b"].kill()
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()

    connected(use, lambda world: keep)


def test_a_frozen_machine_accepts_and_answers_when_it_goes_on() -> None:
    async def main(world: World) -> tuple[bytes, float, float]:
        machine = world.machines["b"]
        machine.start(lambda: machine.listen(echo))
        await anyio.sleep(1)
        machine.freeze()
        world.loop.after(30, machine.thaw)

        async def ask(machine: Machine) -> tuple[bytes, float, float]:
            stream = await machine.connect("b")
            connected_at = world.loop.now
            await stream.send(b"hello")
            return await stream.receive(), connected_at, world.loop.now

        return await on(world, "a", ask)

    answer, connected_at, answered_at = run(main)
    assert answer == b"hello"
    assert connected_at < 2
    assert 31 < answered_at < 32


def test_connections_that_nobody_took_break_with_their_listener() -> None:
    async def main(world: World) -> None:
        machine = world.machines["b"]

        async def listen() -> None:
            with anyio.move_on_after(5):
                await machine.listen(keep)
            await anyio.sleep_forever()

        machine.start(listen)
        await anyio.sleep(1)
        machine.freeze()
        world.loop.after(30, machine.thaw)

        async def ask(machine: Machine) -> None:
            stream = await machine.connect("b")
            await stream.send(b"hello")
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()

        await on(world, "a", ask)

    for seed in range(10):
        run(main, seed=seed)


def test_a_connection_that_its_caller_gave_up_ends_at_the_other_side() -> None:
    async def main(world: World) -> list[str]:
        inbox, machine = Inbox(world), world.machines["b"]
        machine.start(lambda: machine.listen(inbox))
        await anyio.sleep(1)

        async def give_up(machine: Machine) -> None:
            for tenths in range(40):
                with anyio.move_on_after(tenths / 10_000):
                    await (await machine.connect("b")).aclose()
            await anyio.sleep(1)

        await on(world, "a", give_up)
        left = len(world.network._connections)
        return [*inbox.ended, f"{left} left"]

    ended = run(main)
    assert ended[-1] == "0 left"
    assert set(ended[:-1]) == {"end"}
