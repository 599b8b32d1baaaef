"""Connections to the engine: how they are made, cut and closed."""

import asyncio
import os
import socket
from contextlib import suppress
from datetime import datetime
from random import random
from typing import Any, NamedTuple, TypeAlias

import anyio
import psycopg
from psycopg import AsyncConnection, errors
from psycopg.conninfo import conninfo_to_dict

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 5.0


def pause_seconds(failures: int) -> float:
    """Return the time to wait after so many failures in a row. Many nodes do not come back at the same moment."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 20)) * (0.5 + random())


_TALK = ("This probably means the server terminated", "Is the server running on that host")


def said(error: BaseException) -> str:
    """Return what went wrong, in one line, without what libpq guesses."""
    lines = [line.strip() for line in str(error).splitlines()]
    end = next((place for place, line in enumerate(lines) if line.startswith(_TALK)), len(lines))
    return " ".join(lines[:end])[:300] or type(error).__name__


def cut(connection: Connection) -> None:
    """Shut the socket of a connection down, so that whoever waits for it learns that it is gone."""
    with suppress(OSError, psycopg.Error):
        copy = socket.socket(fileno=os.dup(connection.fileno()))
        with copy:
            copy.shutdown(socket.SHUT_RDWR)


def chooses_server(url: str) -> bool:
    """Return True if another connection may reach another server, which takes writes."""
    return "target_session_attrs" in conninfo_to_dict(url)


def hosts(url: str) -> int:
    """Return the number of servers that are tried, one after the other."""
    given = conninfo_to_dict(url)
    return 1 + str(given.get("host") or given.get("hostaddr") or "").count(",")


async def connect(url: str, seconds: float) -> Connection:
    """Connect. Statements commit by themselves, and are never prepared: a pooler may be in between."""
    with anyio.fail_after(seconds * hosts(url)):
        return await AsyncConnection.connect(
            url,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=max(2, round(seconds)),
            application_name="nodekit",
        )


class Backend(NamedTuple):
    """The process of the server that serves a connection."""

    pid: int
    started_at: datetime


async def backend_of(connection: Connection) -> Backend | None:
    """Return the process that serves a connection; None behind a pooler, where others use it, too."""
    query = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    row = await (await connection.execute(query)).fetchone()
    return None if row is None or row[0] != connection.info.backend_pid else Backend(*row)


async def end(connection: Connection, backend: Backend) -> None:
    """End a process whose connection has broken, unless it has ended.

    If no word of that has reached the server, it waits for the rest of a transaction, with its locks.
    """
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s"
    with suppress(errors.InsufficientPrivilege):
        await connection.execute(query, backend)


async def close(connection: Connection) -> None:
    """Close a connection without waiting for the engine."""
    with suppress(psycopg.Error, OSError):
        await connection.close()


class Notice:
    """Wakes those who wait, again and again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    def next(self) -> asyncio.Event:
        """Return the event that the next `set` sets. Take it before you look at what it is about."""
        return self._event
