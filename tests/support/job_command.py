"""`nodekit job` in tests: run in this process, as a process, or at a terminal, and servers that it may meet."""

import asyncio
import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest
from components import until
from connections import listening
from http_api import Api
from served import NODEKIT

from nodekit.cli import main

LONG_SECONDS = 60
UNKNOWN = "01a20a76-0000-7000-8000-000000000000"


class Done(msgspec.Struct):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def call(url: str, *arguments: str, stdin: bytes = b"") -> Done:
    """Run `nodekit job` to its end in a thread of this process: a new process takes longer than most commands do."""
    with anyio.fail_after(LONG_SECONDS):
        return await anyio.to_thread.run_sync(_call, url, arguments, stdin, abandon_on_cancel=True)


class Given(io.BytesIO):
    name = "<stdin>"


def _call(url: str, arguments: Sequence[str], stdin: bytes) -> Done:
    given, out, err = Given(stdin), io.BytesIO(), io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NODEKIT_URL", url)
        for name, stream in (("stdin", given), ("stdout", out), ("stderr", err)):
            patch.setattr(sys, name, io.TextIOWrapper(stream, "utf-8", write_through=True))
        with pytest.raises(SystemExit) as ended:
            main(["job", *arguments], prog_name="nodekit")
        return Done(ended.value.code or 0, out.getvalue().decode(), err.getvalue().decode())


async def spawn(url: str, *arguments: str) -> Done:
    """Run the command as a process in which warnings are errors; otherwise like `call`."""
    environment = {**os.environ, "NODEKIT_URL": url, "PYTHONWARNINGS": "error"}
    command = [*NODEKIT, "job", *arguments]
    with anyio.fail_after(LONG_SECONDS):
        done = await anyio.run_process(command, input=b"", check=False, env=environment, cwd="/")
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


class AtTerminal:
    """A command at a terminal: its standard input and error, and its output unless that goes to a file."""

    def __init__(self, url: str, *arguments: str, out: Path | None = None, columns: int = 72) -> None:
        self.screen = ""
        self._master, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {**os.environ, "NODEKIT_URL": url, "TERM": "xterm"}
        with open(out or os.devnull, "wb") as file:
            self.process = subprocess.Popen(
                # the first terminal that a new session opens is its own: Ctrl-C is a signal
                ["sh", "-c", 'exec "$@" <"$0"', os.ttyname(terminal), *NODEKIT, "job", *arguments],
                stdout=file if out else terminal,
                stderr=terminal,
                env=environment,
                start_new_session=True,
            )
        os.close(terminal)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    async def shows(self, pattern: str) -> None:
        await until(lambda: self._read() and re.search(pattern, self.screen))

    async def ended(self) -> int:
        await until(lambda: self._read() and self.process.poll() is not None)
        while self._read(wait_seconds=0.05):
            pass
        return self.process.returncode

    def _read(self, wait_seconds: float = 0) -> bool:
        """Read the screen as it is now; return False if nothing new was expected."""
        if not select.select([self._master], [], [], wait_seconds)[0]:
            return not wait_seconds
        try:
            self.screen += os.read(self._master, 1 << 16).decode()
        except OSError:  # nobody has the terminal open any more
            return not wait_seconds
        return True

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@asynccontextmanager
async def at_terminal(
    url: str, *arguments: str, out: Path | None = None, columns: int = 72
) -> AsyncIterator[AtTerminal]:
    terminal = AtTerminal(url, *arguments, out=out, columns=columns)
    try:
        yield terminal
    finally:
        terminal.close()


Answer = Callable[[bytes], Awaitable[bytes | None]]


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[tuple[str, asyncio.Server]]:
    """Run a server that is given each request and sends those bytes; None closes without a reply. Yield its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        body = await reader.readexactly(int(length[1])) if length else b""
        if (reply := await answer(head + body)) is not None:
            writer.write(reply)
            await writer.drain()

    async with listening(serve) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}", server


def http(body: str, status: str = "200 OK", *headers: str, type: str = "application/json") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", body]).encode()


def behind(api: Api, *, lose: Sequence[str]) -> tuple[Answer, list[str]]:
    """Run a proxy of a node that loses the first answer to each of these methods."""
    to_lose, seen = list(lose), list[str]()

    async def answer(request: bytes) -> bytes | None:
        method = request.split()[0].decode()
        seen.append(method)
        reader, writer = await asyncio.open_connection(*api.address)
        writer.write(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        reply = await reader.read()
        writer.close()
        if method in to_lose:
            to_lose.remove(method)
            return None
        return reply

    return answer, seen
