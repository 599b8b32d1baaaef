"""Bounded attacks on a node. Each is what one client, or a few, could do with a laptop."""

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import h2.connection
import h2.settings
from http_api import Api

from siege import processes
from siege.target import MEGABYTE, Target, job, post, submit

LARGE = 15 * MEGABYTE
GONE = (OSError, asyncio.IncompleteReadError)


class Size(NamedTuple):
    """Force of an attack: the `seconds` that it goes on, and a divisor of its numbers."""

    seconds: float
    divisor: int

    def of(self, number: int) -> int:
        return max(1, number // self.divisor)


Attack = Callable[[Target, Size], Awaitable[None]]


@asynccontextmanager
async def _connections(target: Target, most: int, sender: int = 2) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """Open as many connections as the node lets one address have."""
    opened: list[asyncio.StreamWriter] = []
    try:
        for _ in range(most):
            with suppress(*GONE):
                opened.append((await target.connect(sender))[1])
        yield opened
    finally:
        for writer in opened:
            writer.transport.abort()


async def _send(writers: list[asyncio.StreamWriter], data: bytes) -> None:
    for writer in writers:
        with suppress(*GONE):
            writer.write(data)
            await asyncio.wait_for(writer.drain(), 5)


async def large_jobs(target: Target, size: Size) -> None:
    """Three jobs of 15 MB with a hundred steps."""
    async with target.attacker() as attacker:
        ids = [await submit(attacker, job(LARGE, steps=size.of(100))) for _ in range(3)]
        await asyncio.sleep(size.seconds)
        for id in ids:
            while (await attacker.call("DELETE", f"/api/jobs/{id}")).status == 503:
                await asyncio.sleep(0.1)


async def large_batches(target: Target, size: Size) -> None:
    """Batches of a thousand items of 16 kB, one after the other, from five addresses."""

    async def send(number: int) -> None:
        async with target.attacker(number) as attacker:
            batch = b"[%b]" % b",".join([job(15_000)] * 1000)
            for _ in range(size.of(3)):
                await post(attacker, "/api/jobs/batch", batch)

    await asyncio.gather(*(send(number) for number in range(2, 7)))


async def many_results(target: Target, size: Size) -> None:
    """One request for the results of many jobs of 15 MB, and one for all their steps."""
    async with target.attacker() as attacker:
        ids = [await submit(attacker, job(LARGE)) for _ in range(size.of(60))]
        query = "&".join(f"id={id}" for id in ids)
        for path in (f"/api/jobs?{query}", f"/api/jobs?{query}&intermediate=true"):
            async with attacker.session.get(attacker.url + path) as reply:
                async for _ in reply.content.iter_chunked(MEGABYTE):
                    pass


async def unread_replies(target: Target, size: Size) -> None:
    """Forty connections that ask for 15 MB each, and never read."""
    async with target.attacker() as attacker:
        id = await submit(attacker, job(LARGE))
        while (await attacker.get(f"/api/jobs?id={id}")).json[0]["status"] == "running":
            await asyncio.sleep(0.1)
    head = f"GET /api/jobs?id={id} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    async with _connections(target, size.of(40)) as writers:
        for writer in writers:
            writer.transport.pause_reading()
        await _send(writers, head)
        await asyncio.sleep(size.seconds)


async def unread_events(target: Target, size: Size) -> None:
    """Forty event streams of a job of 15 MB, never read."""
    async with target.attacker() as attacker:
        id = await submit(attacker, job(LARGE, steps=4))
    head = f"GET /api/jobs/{id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    async with _connections(target, size.of(40)) as writers:
        for writer in writers:
            writer.transport.pause_reading()
        await _send(writers, head)
        await asyncio.sleep(size.seconds)


async def unread_streams(target: Target, size: Size) -> None:
    """Sixty-four streams of jobs, never read."""
    body = job(MEGABYTE)
    head = f"POST /api/jobs/stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with _connections(target, 64) as writers:
        for writer in writers:
            writer.transport.pause_reading()
        await _send(writers, head + body)
        await asyncio.sleep(size.seconds)


async def half_bodies(target: Target, size: Size) -> None:
    """Sixty bodies of 16 MB that stop ten bytes short."""
    length = 16 * MEGABYTE - 100
    head = f"POST /api/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
    piece = b" " * (length - 10)
    async with _connections(target, size.of(60)) as writers:
        await asyncio.gather(*(_send([writer], head + piece) for writer in writers))
        await asyncio.sleep(size.seconds)


async def millions_of_items(target: Target, size: Size) -> None:
    """Batches with 8.4 million items, and a job in four million containers."""
    batch = b"[" + b",".join([b"0"] * (8_388_000)) + b"]"
    containers = b'{"data":{},"containers":[' + b",".join([b'"a"'] * 4_190_000) + b"]}"
    async with target.attacker() as attacker:
        for _ in range(size.of(4)):
            assert (await post(attacker, "/api/jobs/batch", batch)).status in (413, 503)
            assert (await post(attacker, "/api/jobs", containers)).status in (400, 503)


async def half_headers(target: Target, size: Size) -> None:
    """Four hundred connections with half a header."""
    async with _connections(target, 400) as writers:
        await _send(writers, b"GET /info HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        await asyncio.sleep(size.seconds)


async def idle_connections(target: Target, size: Size) -> None:
    """Connections with nothing on them, as many as the node takes."""
    async with _connections(target, 2000):
        await asyncio.sleep(size.seconds)


async def pipelines(target: Target, size: Size) -> None:
    """Twenty connections with five thousand requests each, all at once, and nothing read."""
    many = b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n" * size.of(5000)
    async with _connections(target, 20) as writers:
        for writer in writers:
            writer.transport.pause_reading()
        await asyncio.gather(*(_send([writer], many) for writer in writers))
        await asyncio.sleep(size.seconds)


async def endless_trailers(target: Target, size: Size) -> None:
    """Chunked bodies whose trailers, or chunk extensions, do not end."""
    head = b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailers = head + b"2\r\n{}\r\n0\r\n" + b"x-trailer: 0123456789\r\n" * size.of(400_000)
    extension = head + b"2;" + b"x" * size.of(16 * MEGABYTE)
    async with _connections(target, 20) as writers:
        sent = [trailers, extension]
        await asyncio.gather(*(_send([w], data) for w, data in zip(writers, itertools.cycle(sent), strict=False)))
        await asyncio.sleep(size.seconds)


async def abandoned_searches(target: Target, size: Size) -> None:
    """Searches by the text of an error, whose clients leave at once."""
    async with target.attacker() as attacker:
        item = {"containers": ["echo"], "data": {}}
        for _ in range(size.of(20)):
            await attacker.post("/api/jobs/batch", [item] * 1000)
    head = b"GET /api/jobs?status=failed&error=nothing+like+it HTTP/1.1\r\nHost: x\r\n\r\n"
    async with _connections(target, 40) as writers:
        await _send(writers, head)


async def waiters(target: Target, size: Size) -> None:
    """Connections that wait for 200 jobs each."""
    async with target.attacker() as attacker:
        answers = (await attacker.post("/api/jobs/batch", [{"containers": ["echo"], "data": {}}] * 200)).json
        ids = "&".join(f"id={answer['id']}" for answer in answers if "id" in answer)
    head = f"GET /api/jobs?{ids}&wait=20 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    async with _connections(target, size.of(1000)) as writers:
        await _send(writers, head)
        await asyncio.sleep(size.seconds)


async def full_queue(target: Target, size: Size) -> None:
    """Batches that fill the queue."""
    async with target.attacker() as attacker:
        for _ in range(12):
            await attacker.post("/api/jobs/batch", [{"containers": ["echo"], "data": {}}] * 1000)
        await asyncio.sleep(min(1, size.seconds))


async def retries(target: Target, size: Size) -> None:
    """Retries of a job with 15 MB, which run beside each other."""
    async with target.attacker() as attacker:
        id = await submit(attacker, job(LARGE, steps=4))
        assert (await attacker.call("DELETE", f"/api/jobs/{id}")).status in (200, 503)
        for _ in range(size.of(40)):
            await attacker.call("POST", f"/api/jobs/{id}/retry", headers={"Content-Length": "0"})


async def closed_window(target: Target, size: Size) -> None:
    """A connection with HTTP/2 that asks for 15 MB a hundred times, and opens no window for them."""
    async with target.attacker() as attacker:
        id = await submit(attacker, job(LARGE))
    reader, writer = await target.connect()
    client = h2.connection.H2Connection()
    client.initiate_connection()
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    writer.write(client.data_to_send())
    path = [(":method", "GET"), (":path", f"/api/jobs?id={id}"), (":scheme", "http"), (":authority", "x")]
    with suppress(*GONE):
        for number in range(size.of(100)):
            client.send_headers(1 + 2 * number, path, end_stream=True)
        writer.write(client.data_to_send())
        await writer.drain()
        await asyncio.sleep(size.seconds)
    del reader
    writer.transport.abort()


async def closing_container(target: Target, size: Size) -> None:
    """Jobs whose container closes each connection a moment after its reply. None of them fails."""
    await _all_succeed(target, [{"containers": ["echo"], "data": {"close": n % 4 / 200}} for n in range(size.of(2000))])


async def single_threaded_container(target: Target, size: Size) -> None:
    """Jobs in a container that serves one connection until it ends. None of them waits for an idle connection."""
    await _all_succeed(target, [{"containers": ["single"], "data": {"n": n}} for n in range(size.of(2000))])


async def _all_succeed(target: Target, jobs: list[Any]) -> None:
    async with target.attacker() as attacker:
        answers = [one for at in range(0, len(jobs), 200) for one in await _accepted(attacker, jobs[at : at + 200])]
        found = await attacker.results(*(answer["id"] for answer in answers))
        assert {job["status"] for job in found} == {"success"}, found[:1]


async def _accepted(attacker: Api, jobs: list[Any]) -> list[Any]:
    answers: list[Any] = (await attacker.post("/api/jobs/batch", jobs)).json
    return answers


async def endless_output(target: Target, size: Size) -> None:
    """A container that prints without end, as fast as it can, while others work."""
    await asyncio.sleep(size.seconds)


LOUD = f"""
[[runners]]
use = "process"
[[runners.containers]]
id = "loud"
command = [{json.dumps(sys.executable)}, {json.dumps(str(Path(__file__).with_name("loud.py")))}]
"""

RUNNERS: Mapping[Attack, str] = {endless_output: LOUD}
"""More of the node file, for attacks that come from a container."""


async def killed_nodes(target: Target, size: Size) -> None:
    """Nodes beside this one that are killed, and whose containers try to outlive them."""
    del target
    await processes.killed_nodes(size.seconds)


async def strangers_at_ports(target: Target, size: Size) -> None:
    """A program of another user that takes the ports of containers of a node beside this one."""
    del target
    await processes.strangers_at_ports(size.seconds)


async def moved_files(target: Target, size: Size) -> None:
    """The files of the store, which somebody on the machine moves away and back again, while jobs come in."""
    path, away = target.folder / "jobs.db", target.folder / "away.db"
    async with target.attacker() as attacker:
        for _ in range(round(2 * size.seconds)):
            path.rename(away)
            try:
                while (await post(attacker, "/api/jobs", job(1000))).status != 503:
                    pass
                await asyncio.sleep(0.2)
            finally:
                away.rename(path)
            await submit(attacker, job(1000))


ATTACKS: tuple[Attack, ...] = (
    large_jobs,
    large_batches,
    many_results,
    unread_replies,
    unread_events,
    unread_streams,
    half_bodies,
    millions_of_items,
    half_headers,
    idle_connections,
    pipelines,
    endless_trailers,
    abandoned_searches,
    waiters,
    full_queue,
    retries,
    closed_window,
    closing_container,
    single_threaded_container,
    endless_output,
    killed_nodes,
    strangers_at_ports,
    moved_files,
)
