"""A transport that speaks no HTTP: a JSON object in a line over TCP, on anyio alone.

``{"submit": […], "data": {…}}`` → ``{"id"}`` | ``{"refused", "params"}`` | ``{"unavailable", "seconds"}``;
``{"fetch": id}`` → ``{"job": {…} | null}``; any other failure is ``{"error"}``.
"""

import logging
from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

from nodekit import (
    Connection,
    ContainerError,
    Job,
    JobRequest,
    JobStatus,
    Node,
    NodekitError,
    Refusal,
    Unavailable,
    encode_payload,
)

GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.IncompleteRead, anyio.EndOfStream)
STATUSES = {JobStatus.SUCCESS: "success", JobStatus.FAILED: "failed", JobStatus.CANCELLED: "failed"}
MOST_BYTES = 1 << 20

logger = logging.getLogger("nodekit.lines")


class LinesTransport:
    """A server at a port of an address of this machine."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self.port = host, port

    async def serve(self, node: Node, *, task_status: "TaskStatus[Sequence[str]]") -> None:
        listener = await self.listen()
        async with listener, anyio.create_task_group() as serving:
            host, port = listener.extra(SocketAttribute.local_address)[:2]
            serving.start_soon(listener.serve, lambda client: self.answer_all(client, node))
            task_status.started([f"lines://{host}:{port}"])

    async def listen(self) -> SocketListener:
        try:
            return (await anyio.create_tcp_listener(local_host=self.host, local_port=self.port)).listeners[0]
        except OSError as error:
            raise NodekitError(f"cannot listen on {self.host}:{self.port}: {error.strerror or error}") from error

    async def answer_all(self, client: SocketStream, node: Node) -> None:
        lines = BufferedByteReceiveStream(client)
        address = self.name_of(client)
        async with client:
            try:
                while True:
                    line = await lines.receive_until(b"\n", MOST_BYTES)
                    await client.send(msgspec.json.encode(await self.answer(line, node, address)) + b"\n")
            except (*GONE, anyio.DelimiterNotFound):
                logger.debug("%s has gone", address)

    def name_of(self, client: SocketStream) -> str:
        name: str = client.extra(SocketAttribute.remote_address)[0]
        return name

    async def answer(self, line: bytes, node: Node, client: str) -> Any:
        try:
            node.limit(await node.identify(Connection(transport="lines", client=client, address=client)))
            return await self.asked(msgspec.json.decode(line, type=dict[str, Any]), node, client)
        except Refusal as refusal:
            return {"refused": refusal.reason, "params": refusal.params}
        except Unavailable as unavailable:
            return {"unavailable": unavailable.reason, "seconds": unavailable.retry_after_seconds}
        except msgspec.MsgspecError as error:
            return {"error": str(error)}
        except Exception:
            logger.warning("a request of %s failed", client, exc_info=True)
            return {"error": "internal error"}

    async def asked(self, request: dict[str, Any], node: Node, client: str) -> Any:
        if "submit" in request:
            data = encode_payload(request["data"])
            asked = JobRequest(
                containers=tuple(request["submit"]),
                data=data,
                client=client,
                address=None if client == "unix" else client,
            )
            return {"id": (await node.submit(asked)).id}
        jobs = await node.fetch([request["fetch"]], client=client)
        return {"job": shown(jobs[0]) if jobs else None}


def shown(job: Job) -> Any:
    status = STATUSES.get(job.status, "running")
    result = (job.error or job.results[-1]) if job.status.finished else None
    if result is None:
        return {"status": status, "result": None}
    value = {"error": result.error} if isinstance(result, ContainerError) else {"output": result.output}
    return {"status": status, "result": {"container": result.container, **value}}
