"""A transport that only listens at a unix socket can keep the promises of transports, and pass their suite."""

import socket
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream, TaskStatus
from chance import each_run
from lines_suite import LinesSuite
from lines_transport import LinesTransport
from msgspec.structs import replace

from nodekit import Node, NodekitError, Transport
from nodekit.testing import HttpTransportContract
from nodekit_asgi import AsgiConfig, AsgiTransport


class UnixLinesTransport(LinesTransport):
    """JSON in lines, at the path of a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        try:
            with socket.socket(socket.AF_UNIX) as probe:  # anyio would replace the socket of a running server
                if probe.connect_ex(self.path) == 0:
                    raise NodekitError(f"cannot listen on {self.path}: another process does")
            listener = await anyio.create_unix_listener(self.path)
        except OSError as error:
            raise NodekitError(f"cannot listen on {self.path}: {error.strerror or error}") from error
        try:
            async with listener, anyio.create_task_group() as serving:
                serving.start_soon(listener.serve, lambda client: self.answer_all(client, node))
                task_status.started([f"unix:{self.path}"])
        finally:
            Path(self.path).unlink(missing_ok=True)

    def name_of(self, client: SocketStream) -> str:
        return "unix"


class OnUnixSockets:
    """Settings of suites for such transports: the address of a second one; all callers are one client."""

    clients = ("unix",)

    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        with TemporaryDirectory(prefix="nodekit-") as folder:  # a short name: paths of sockets have at most 107 bytes
            yield Path(folder)


class TestUnixLinesTransport(OnUnixSockets, LinesSuite):
    backends = ("trio",)  # on asyncio, anyio's listener of a unix socket fails when it is cancelled at a bad moment

    @pytest.fixture
    def transport(self, folder: Path) -> UnixLinesTransport:
        return UnixLinesTransport(f"{folder}/one")

    def another(self, transport: Any) -> Transport:
        other = deepcopy(transport)
        other.path = f"{transport.path}-other"
        return other


class TestAsgiTransportOnAUnixSocket(OnUnixSockets, HttpTransportContract):
    backends = ("asyncio",)

    @pytest.fixture(params=each_run(["hypercorn"], ["hypercorn", "uvicorn"]))
    def transport(self, request: pytest.FixtureRequest, folder: Path) -> AsgiTransport:
        return AsgiTransport(config=AsgiConfig(bind=f"unix:{folder}/one", server=request.param))

    def another(self, transport: Any) -> Transport:
        config = transport._config
        return AsgiTransport(config=replace(config, bind=f"{config.bind}-other"))
