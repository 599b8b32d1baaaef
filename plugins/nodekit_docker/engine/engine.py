"""An engine, called through docker-py. Its calls block, so they run in threads. Its errors are translated here."""

import errno
import http.client
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import anyio
import docker.errors
import requests
import urllib3
from docker import APIClient

from nodekit import NodekitError, time_limit
from nodekit_docker.containers.state import Made
from nodekit_docker.engine.errors import EngineGone, EngineRefused
from nodekit_docker.engine.find import Place, check_client_config
from nodekit_docker.engine.threads import Threads
from nodekit_remote import printable_line

T = TypeVar("T")

logger = logging.getLogger("nodekit.docker")

_CLIENT_ERRORS = (
    docker.errors.DockerException,
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)
"""The client's errors. docker-py does not translate those of the libraries beneath it."""

CALL_SECONDS = 60.0
"""Limit for one call. Starting a container on a busy machine takes seconds."""
PING_SECONDS = 5.0
INSPECT_SECONDS = 10.0
LONGEST_TEXT = 2000
"""Maximum number of characters of an error: a proxy in front of an engine may answer with pages of text."""
LONGEST_STOP_SECONDS = 1e6
"""Upper bound of stop times: engines and sockets accept no infinite time."""
MOST_CONNECTIONS = 64
"""Maximum number of connections that are kept. When a node stops, each of its containers uses one."""
AT_ONCE = 4
"""Maximum number of calls at once; more would not make an engine faster."""


class Engine:
    """A client that returns an engine's answers as plain dicts. Every call raises `EngineGone` and `EngineRefused`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.threads = Threads()
        self._limit = anyio.CapacityLimiter(AT_ONCE)
        self._api: Any = None
        self._closed = False

    def close(self) -> None:
        """Close its connections. A call that is under way closes its own when it ends."""
        self._closed = True
        self.threads.close()
        if self._api is not None:
            self._api.close()

    async def ping(self) -> None:
        """Return once the engine answers. The first call also asks for its version."""
        with time_limit(PING_SECONDS) as scope:  # a frozen engine accepts the request and does not answer
            await self.wait(lambda api: api.ping())
            return
        assert scope.cancelled_caught
        raise EngineGone(f"the Docker engine {self.place.host} did not answer within {PING_SECONDS:g} s")

    def client(self) -> Any:
        """Return the blocking client, for use in a thread. Many threads may share it."""
        if self._api is None:
            check_client_config()
            api: Any = APIClient(
                base_url=self.place.host,
                tls=self.place.tls or False,
                version="auto",
                timeout=int(CALL_SECONDS),
                max_pool_size=MOST_CONNECTIONS,
            )
            self._api = api
            if self._closed:  # a frozen engine answered only after `close`
                api.close()
        if self._closed:
            raise EngineGone("the node has left the engine")
        return self._api

    async def call(self, function: Callable[[Any], T]) -> T:
        """Call the function with the blocking client, and return its result. At most `AT_ONCE` run at once."""
        async with self._limit:
            return await self._run(function, followed=True)

    async def wait(self, function: Callable[[Any], T]) -> T:
        """Do as `call` does, but any number at once; for calls that need no clean-up if they are given up."""
        return await self._run(function, followed=False)

    async def _run(self, function: Callable[[Any], T], *, followed: bool) -> T:
        return await self.threads.run(lambda: self.translated(lambda: function(self.client())), followed=followed)

    def translated(self, function: Callable[[], T]) -> T:
        """Call the function, and translate the client's errors into those of nodekit."""
        try:
            return function()
        except docker.errors.APIError as error:
            status = error.response.status_code if error.response is not None else 500
            raise EngineRefused(str(error.explanation or error)[:LONGEST_TEXT], status) from error
        except _CLIENT_ERRORS as error:
            _let_go(error)
            raise EngineGone(f"the Docker engine {self.place.host} does not answer: {_cause(error)}") from error
        except (NodekitError, StopIteration):
            raise
        except Exception as error:  # docker-py fails on the answers if something else is behind the socket
            text = f"the server at {self.place.host} does not answer like a Docker engine: {error!r}"
            raise EngineRefused(text[:LONGEST_TEXT], 500) from error

    def iterated(self, stream: Iterator[T]) -> Iterator[T]:
        """Yield the items of a stream, with the client's errors translated; for use in a thread."""
        while True:
            try:
                yield self.translated(lambda: next(stream))
            except StopIteration:
                return

    # -- containers -------------------------------------------------------------------------------

    async def containers(self, labels: Sequence[str]) -> list[Made]:
        """List the containers with the labels (``name=value``), running or not, newest first."""

        def listed(api: Any) -> list[Made]:
            return [Made.container(one) for one in api.containers(all=True, filters={"label": list(labels)})]

        return await self.call(listed)

    async def inspect(self, id: str) -> Mapping[str, Any] | None:
        """Return all about a container, or None if it is gone. It does not queue behind calls that make containers."""
        with time_limit(INSPECT_SECONDS):
            return await self._if_there(lambda api: api.inspect_container(id), self.wait)
        raise EngineGone(f"the Docker engine {self.place.host} did not answer within {INSPECT_SECONDS:g} s")

    async def time(self) -> float:
        """Return the time by the engine's clock, which may differ from that of this machine if it is a virtual one."""
        date = await self.wait(lambda api: str(api._get(api._url("/_ping")).headers.get("Date")))
        try:
            return parsedate_to_datetime(date).timestamp()
        except ValueError:  # a proxy in front of the engine may hide it
            return time.time()

    async def create(self, name: str, settings: Mapping[str, Any]) -> str:
        """Make a container and return its id. `settings` is the body of the engine's API call."""
        made: Mapping[str, Any] = await self.call(lambda api: api.create_container_from_config(dict(settings), name))
        for warning in made.get("Warnings") or ():  # such as limits that the engine cannot enforce
            logger.warning("container %r: the Docker engine warns: %s", name, warning)
        return str(made["Id"])

    async def start(self, id: str) -> None:
        await self.call(lambda api: api.start(id))

    async def stop(self, id: str, seconds: float) -> None:
        """Send the container its stop signal, and SIGKILL after so many seconds."""
        whole = math.ceil(min(seconds, LONGEST_STOP_SECONDS))
        await self._if_there(lambda api: api.stop(id, timeout=whole), self.wait)

    async def remove(self, id: str) -> None:
        """Remove a container with its anonymous volumes; kill it if it still runs."""
        try:
            await self._if_there(lambda api: api.remove_container(id, force=True, v=True))
        except EngineRefused as error:
            if "already in progress" not in str(error):
                raise

    async def last_lines(self, id: str, count: int) -> tuple[str, ...]:
        """Return the last lines that a container printed."""
        printed = await self._if_there(lambda api: api.logs(id, tail=count), self.wait)
        return shown_lines(printed or b"")

    async def printed_by(self, id: str, command: Sequence[str]) -> str | None:
        """Run a short command in a container, and return its standard output; None if it fails."""

        def printed(api: Any) -> str | None:
            made = str(api.exec_create(id, list(command), stderr=False)["Id"])
            output: bytes = api.exec_start(made)
            ended = api.exec_inspect(made)["ExitCode"]
            return None if ended else output.decode(errors="replace")

        return await self._if_there(printed, self.wait)

    async def image(self, name: str) -> Mapping[str, Any] | None:
        """Return all about an image, or None if it is not on this machine."""
        return await self._if_there(lambda api: api.inspect_image(name))

    # -- networks ---------------------------------------------------------------------------------

    async def networks(self, labels: Sequence[str]) -> list[Made]:
        """List the networks with the labels (``name=value``)."""

        def listed(api: Any) -> list[Made]:
            return [Made.network(one) for one in api.networks(filters={"label": list(labels)})]

        return await self.call(listed)

    async def make_network(self, settings: Mapping[str, Any]) -> str:
        """Make a network and return its id. `settings` is the body of the engine's API call.

        Raise `EngineRefused` with status 409 if the name is taken.
        """
        made: Mapping[str, Any] = await self.call(lambda api: _posted(api, "/networks/create", settings))
        return str(made["Id"])

    async def attach(self, container: str, network: str) -> None:
        """Attach a container to a network, unless it is attached already."""
        try:
            await self.call(lambda api: api.connect_container_to_network(container, network))
        except EngineRefused as error:
            if "already exists in network" not in str(error):
                raise

    async def detach(self, container: str, network: str) -> None:
        """Detach a container from a network, if it is attached."""
        try:
            await self._if_there(lambda api: api.disconnect_container_from_network(container, network, force=True))
        except EngineRefused as error:
            if "is not connected" not in str(error):
                raise

    async def remove_network(self, id: str) -> None:
        await self._if_there(lambda api: api.remove_network(id))

    async def _if_there(self, function: Callable[[Any], T], how: Any = None) -> T | None:
        try:
            answer: T = await (how or self.call)(function)
        except EngineRefused as error:
            if error.status == 404:
                return None
            raise
        return answer


def _posted(api: Any, path: str, body: Mapping[str, Any]) -> Any:
    """Post a body and return the engine's answer, for a call that the client supports only in part."""
    return api._result(api._post_json(api._url(path), data=dict(body)), json=True)


def _let_go(error: BaseException | None) -> None:
    """Release the objects that the error's frames hold: docker-py does not close sockets that it could not connect."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def shown_lines(printed: bytes) -> tuple[str, ...]:
    """Return the lines for logs and errors, without characters by which a program could command a terminal."""
    return tuple(map(printable_line, printed.splitlines()))


def _cause(error: BaseException) -> str:
    """Return the operating system's message from deep within the error, or else the error's own text."""
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer within {CALL_SECONDS:g} s"
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno is not None:
            if inner.errno == errno.EACCES:
                return "permission denied; this user may not use it (on Linux: the group `docker` may)"
            if inner.errno == errno.ENOENT:
                return "there is no such socket; is the engine running?"
            return (inner.strerror or str(inner)).lower()
        inner = next((arg for arg in inner.args if isinstance(arg, BaseException)), None) or inner.__context__
    return str(error)
