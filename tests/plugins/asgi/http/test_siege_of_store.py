"""Clients who search, wait and store too much: they are stopped, and others are served."""

import asyncio
import os
import sqlite3
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from components import until
from connections import ask, leave, waiters
from http_api import both_servers, serving

from nodekit import ClientLimits, JobQuery
from nodekit_sqlite import SqliteStore, _query, _table

pytestmark = pytest.mark.anyio


@both_servers
async def test_searches_of_clients_who_have_left_are_not_made(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, made = threading.Event(), list[JobQuery]()
    find_slice = _query.find_slice

    def held(connection: sqlite3.Connection, query: JobQuery) -> _query.Slice:
        made.append(query)
        go_on.wait(60)
        return find_slice(connection, query)

    monkeypatch.setattr(_table, "find_slice", held)
    go_on.set()
    store = SqliteStore(tmp_path / "jobs.sqlite", min_free_bytes=0)
    async with serving(server, node={"store": store}) as api, AsyncExitStack() as stack:
        id = await api.submit("echo")
        await api.results(id)
        go_on.clear()
        made.clear()
        turns = store._sqlite._readers._turns
        connections = [await stack.enter_async_context(api.raw()) for _ in range(40)]
        for connection in connections:
            await connection.send(ask("/api/jobs?status=failed&error=no"))
        await until(lambda: len(made) == 2)
        await until(lambda: sum(map(len, turns._waiting.values())) == 38)
        assert (await api.get("/health")).status == 200
        for connection in connections:
            leave(connection)
        await until(lambda: not turns._waiting)
        go_on.set()
        assert (await api.get("/api/jobs")).json == [id]
        assert len([query for query in made if query.error is not None]) == 2


@both_servers
async def test_who_waits_for_too_many_jobs_is_told_to_come_again(server: str) -> None:
    async with serving(server, node={"max_waits": 2}) as api:
        ids = [await api.submit("gate") for _ in range(2)]
        path = f"/api/jobs?id={ids[0]}&id={ids[1]}&wait=30"
        waiting = asyncio.create_task(api.get(path))
        await until(lambda: waiters(api) == 1)
        refused = await api.get(path)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        assert "wait for 2 jobs; they may wait for 2" in refused.error
        item = {"containers": ["gate"], "data": {}}
        accepted = await api.post("/api/jobs", item, headers={"Prefer": "wait=30"})
        assert (accepted.status, set(accepted.json)) == (202, {"id"}), "it is accepted, and the client learns its id"
        async with api.as_other_client() as other:
            job = (await other.post("/api/jobs", item)).json["id"]
            assert (await other.get(f"/api/jobs?id={job}&wait=0.001")).status == 200
        api.gate.opened.set()
        assert [job["status"] for job in (await waiting).json] == ["success", "success"]
        assert (await api.get(path)).status == 200


@both_servers
async def test_who_has_stored_too_much_is_refused_and_others_are_not(server: str, tmp_path: Path) -> None:
    limits = {"127.0.0.1": ClientLimits(max_stored_bytes=50_000)}
    store = SqliteStore(tmp_path / "jobs.sqlite", min_free_bytes=0)
    async with serving(server, node={"store": store, "clients": limits}) as api:
        item = {"containers": ["echo"], "data": {"large": "x" * 30_000}}
        assert (await api.post("/api/jobs", item)).status == 200
        refused = await api.post("/api/jobs", item)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "60")
        assert "of at most 50000" in refused.error
        assert (await api.post("/api/jobs/batch", [item] * 3)).status == 429
        async with api.as_other_client() as other:
            assert [(await other.post("/api/jobs", item)).status for _ in range(3)] == [200] * 3


@both_servers
async def test_with_an_almost_full_disk_new_jobs_are_503_and_health_says_why(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 1 << 40
    monkeypatch.setattr("nodekit_sqlite._disk.LOOK_SECONDS", 0.0)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_flag=0))
    async with serving(server, node={"store": SqliteStore(tmp_path / "jobs.sqlite")}) as api:
        id = await api.submit("echo")
        await api.results(id)
        free = 1 << 20
        refused = await api.post("/api/jobs", {"containers": ["echo"], "data": {}})
        assert (refused.status, refused.error) == (503, "the disk of the node is almost full")
        assert int(refused.headers["Retry-After"]) > 0
        health = await api.get("/health")
        assert health.status == 503
        assert "1048576 bytes free" in health.json["reasons"][0]
        assert (await api.get(f"/api/jobs?id={id}")).json[0]["status"] == "success"
        free = 1 << 40
        assert (await api.get("/health")).status == 200
        await api.submit("echo")
