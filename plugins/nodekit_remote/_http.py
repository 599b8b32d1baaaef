"""The container protocol: ``POST /service_output`` with a `ContainerInput` as JSON. The reply is any JSON value."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import quote

import anyio
import msgspec

from nodekit import (
    ContainerFailed,
    ContainerOutput,
    InvalidPayload,
    Step,
    time_limit,
)
from nodekit_remote._connector import CheckConnection
from nodekit_remote._container import HttpContainer
from nodekit_remote._replies import UnexpectedReplies, json_of, output_of, status_failure
from nodekit_remote._requests import RequestHead, idempotency_line, unsendable
from nodekit_remote._session import ERROR_STATUS, Session

PROBE_SECONDS = 5.0
MAX_RESOURCES_BYTES = MAX_HEALTH_BYTES = 1 << 20
HEALTH_PATH = "/health"


class _Heads:
    """The heads of requests to one container."""

    def __init__(self, url: str, container: HttpContainer) -> None:
        self._url = url
        self._headers = {"Content-Type": "application/json"}
        if container.bearer:
            self._headers["Authorization"] = f"Bearer {container.bearer.reveal()}"
        self.call = RequestHead("POST", f"{url}/service_output", self._headers)
        self.streamed_call = RequestHead("POST", f"{url}/service_output", {"Accept": "*/*", **self._headers})

    def question(self, path: str) -> RequestHead:
        """Return the head of a GET of a path, and perhaps a query."""
        return RequestHead("GET", f"{self._url}{path}", self._headers)


@dataclass(frozen=True)
class Endpoint:
    """The place at which a container answers right now."""

    url: str
    """``scheme://host:port`` and, if needed, a path, without a slash at the end."""
    instance: str
    """The name of the running instance, for the job's history."""
    container: HttpContainer
    heads: _Heads = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", _Heads(self.url, self.container))


class ContainerHttp:
    """A client that calls containers over one shared session.

    `check_connection` is called with both addresses of each new connection, before anything is sent on it. It raises
    `ContainerFailed` if the connection must not be used.
    """

    def __init__(
        self, *, connect_timeout_seconds: float = 5.0, check_connection: CheckConnection | None = None
    ) -> None:
        self._connect_seconds = connect_timeout_seconds
        self._unexpected = UnexpectedReplies()
        self._session = Session(connect_seconds=connect_timeout_seconds, check_connection=check_connection)

    async def __aenter__(self) -> Self:
        await self._session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._session.__aexit__(kind, error, trace)

    async def run(self, step: Step, endpoint: Endpoint) -> ContainerOutput:
        """Run a step. Raise `ContainerFailed`."""
        container = endpoint.container
        head, more, body = _call(step, endpoint.heads.call)
        reply = await self._session.send(head, more, body, max_bytes=container.max_reply_bytes)
        output = await output_of(reply, container, self._unexpected)
        return ContainerOutput(container=step.container, output=output, instance=endpoint.instance)

    @asynccontextmanager
    async def stream(self, step: Step, endpoint: Endpoint) -> AsyncIterator["Streamed"]:
        """Run a step. Yield the reply's bytes as they come, of any type and length. Raise `ContainerFailed`."""
        async with self._session.stream(*_call(step, endpoint.heads.streamed_call)) as reply:
            if reply.status >= ERROR_STATUS and endpoint.container.http_errors == "fail":
                whole = await reply.whole(endpoint.container.max_reply_bytes)
                raise status_failure(whole, endpoint.container, self._unexpected)
            yield Streamed(reply, endpoint.instance)

    async def answers(self, endpoint: Endpoint) -> bool:
        """Return True if the container is ready: ``GET /health`` has any HTTP status but 502, 503 and 504."""
        return not await self.trouble(endpoint)

    async def trouble(self, endpoint: Endpoint) -> str:
        """Return why the container is not ready, such as ``connection refused``. Empty: `answers` would be True."""
        with time_limit(PROBE_SECONDS):
            return await self._trouble(endpoint)
        return f"no reply within {PROBE_SECONDS:g} s"

    async def lives(self, endpoint: Endpoint) -> bool:
        """Return True if the container is ready, or takes a connection and is too busy to answer soon.

        Ask this about a container that was up, when a call casts doubt on it. The call of one client may have ended its
        own connection, and may keep the container busy: neither is a reason to keep others from it.
        """
        with time_limit(self._connect_seconds + PROBE_SECONDS):
            return not await self._trouble(endpoint)
        return True

    async def _trouble(self, endpoint: Endpoint) -> str:
        url = health_url(endpoint)
        try:
            reply = await self._session.send(endpoint.heads.question(HEALTH_PATH), max_bytes=MAX_HEALTH_BYTES)
        except ContainerFailed as failure:
            if failure.status is None:
                return failure.text.removeprefix(f"cannot connect to {url}: ").replace(f" to {url}", "")
            status = failure.status  # it has answered, whatever the body is
        else:
            status = reply.status
        return f"HTTP status {status}" if status in (502, 503, 504) else ""

    async def resources(self, endpoint: Endpoint, model_id: str | None) -> msgspec.Raw | None:
        """Return the reply to ``GET /service-resources``. Return None if it is not JSON, or an HTTP error."""
        query = "" if model_id is None else f"?model_id={quote(model_id, safe='')}"
        head = endpoint.heads.question(f"/service-resources{query}")
        try:
            reply = await self._session.send(head, max_bytes=MAX_RESOURCES_BYTES)
            return None if reply.status >= ERROR_STATUS else await json_of(reply, MAX_RESOURCES_BYTES)
        except (ContainerFailed, InvalidPayload):
            return None


class Streamed:
    """The bytes of a reply as they come, and the instance that sends them."""

    def __init__(self, pieces: AsyncIterator[bytes], instance: str) -> None:
        self._pieces = pieces
        self.instance = instance

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)


def health_url(endpoint: Endpoint) -> str:
    """Return the URL that is asked if the container is ready."""
    return f"{endpoint.url}{HEALTH_PATH}"


def _call(step: Step, head: RequestHead) -> tuple[RequestHead, bytes, bytes]:
    """Return the head of the call, the lines of its own that it has besides, and the body."""
    try:
        if step.headers:
            head = head.with_headers(step.headers)
        more = idempotency_line(step.idempotency_key)
    except ValueError as error:
        raise unsendable(head.url, error) from error
    return head, more, msgspec.json.encode(step.input)
