"""An engine, asked through docker-py, whose calls block: hence in threads. Its errors are translated here."""

import errno
import http.client
import logging
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import anyio
import docker.errors
import requests
import urllib3
from docker import APIClient

from nodekit import NodekitError
from nodekit_docker.containers.state import Listed, Network
from nodekit_docker.engine.errors import EngineGone, EngineRefused
from nodekit_docker.engine.find import Place
from nodekit_docker.engine.threads import Threads

T = TypeVar("T")

logger = logging.getLogger("nodekit.docker")

_CLIENT_ERRORS = (
    docker.errors.DockerException,
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)
"""docker-py lets through what the libraries beneath it raise."""

CALL_SECONDS = 60.0
"""Starting a container on a machine that is busy takes seconds."""
PING_SECONDS = 5.0
INSPECT_SECONDS = 10.0
LONGEST_TEXT = 2000
"""Of an error, in characters: what is in front of an engine may answer with pages."""
LONGEST_STOP_SECONDS = 1e6
"""Engines and sockets take no time without end."""
MOST_CONNECTIONS = 64
"""That are kept; when a node stops, each of its containers has one."""
MAX_LINE_BYTES = 4096
"""Of what a container printed; of a longer line the rest is dropped."""
AT_ONCE = 4
"""More at once do not make an engine faster."""


class Engine:
    """Answers with what the engine says, as plain dicts. Every call raises `EngineGone` and `EngineRefused`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.threads = Threads()
        self._limit = anyio.CapacityLimiter(AT_ONCE)
        self._api: Any = None
        self._closed = False

    def close(self) -> None:
        """Give back its connections. A call that is under way gives back its own when it ends."""
        self._closed = True
        self.threads.close()
        if self._api is not None:
            self._api.close()

    async def ping(self) -> None:
        """Returns when it answers; also the first time, when its version is asked for."""
        with anyio.move_on_after(PING_SECONDS) as scope:  # frozen, it takes the question and does not answer
            await self.wait(lambda api: api.ping())
            return
        assert scope.cancelled_caught
        raise EngineGone(f"the Docker engine {self.place.host} did not answer within {PING_SECONDS:g} s")

    def client(self) -> Any:
        """The blocking client, for who runs in a thread. It is safe from many threads."""
        if self._api is None:
            api: Any = APIClient(
                base_url=self.place.host,
                tls=self.place.tls or False,
                version="auto",
                timeout=int(CALL_SECONDS),
                max_pool_size=MOST_CONNECTIONS,
            )
            self._api = api
            if self._closed:  # an engine that was frozen has answered after all
                api.close()
        if self._closed:
            raise EngineGone("the node has left the engine")
        return self._api

    async def call(self, function: Callable[[Any], T]) -> T:
        """What a function of the blocking client gives; few at once."""
        async with self._limit:
            return await self._run(function, followed=True)

    async def wait(self, function: Callable[[Any], T]) -> T:
        """As `call`, for what leaves nothing to clear up if it is given up; any number at once."""
        return await self._run(function, followed=False)

    async def _run(self, function: Callable[[Any], T], *, followed: bool) -> T:
        return await self.threads.run(lambda: self.translated(lambda: function(self.client())), followed=followed)

    def translated(self, function: Callable[[], T]) -> T:
        """Call it, with the client's errors as ours."""
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
        except Exception as error:  # docker-py trips over answers that are none, of whatever is behind the socket
            text = f"what answers at {self.place.host} is no Docker engine as they are known: {error!r}"
            raise EngineRefused(text[:LONGEST_TEXT], 500) from error

    def iterated(self, stream: Iterator[T]) -> Iterator[T]:
        """Its items, with the client's errors as ours; to be used in a thread."""
        while True:
            try:
                yield self.translated(lambda: next(stream))
            except StopIteration:
                return

    # -- containers -------------------------------------------------------------------------------

    async def containers(self, labels: Sequence[str]) -> list[Listed]:
        """Those with the labels (``name=value``), running or not, the newest first."""

        def listed(api: Any) -> list[Listed]:
            return [Listed.of(one) for one in api.containers(all=True, filters={"label": list(labels)})]

        return await self.call(listed)

    async def inspect(self, id: str) -> Mapping[str, Any] | None:
        """All about one; None: it is gone. It does not queue behind others' making."""
        with anyio.move_on_after(INSPECT_SECONDS):
            return await self._if_there(lambda api: api.inspect_container(id), self.wait)
        raise EngineGone(f"the Docker engine {self.place.host} did not answer within {INSPECT_SECONDS:g} s")

    async def create(self, name: str, settings: Mapping[str, Any]) -> str:
        """The new one's id. `settings` are the body of the engine's API."""
        made: Mapping[str, Any] = await self.call(lambda api: api.create_container_from_config(dict(settings), name))
        for warning in made.get("Warnings") or ():  # such as of limits that it cannot hold
            logger.warning("container %s: the Docker engine warns: %s", name, warning)
        return str(made["Id"])

    async def start(self, id: str) -> None:
        await self.call(lambda api: api.start(id))

    async def stop(self, id: str, seconds: float) -> None:
        """Its stop signal, and SIGKILL after so many seconds."""
        whole = math.ceil(min(seconds, LONGEST_STOP_SECONDS))
        await self._if_there(lambda api: api.stop(id, timeout=whole), self.wait)

    async def remove(self, id: str) -> None:
        """With its anonymous volumes; killed, if it still runs."""
        try:
            await self._if_there(lambda api: api.remove_container(id, force=True, v=True))
        except EngineRefused as error:
            if "already in progress" not in str(error):
                raise

    async def last_lines(self, id: str, count: int) -> tuple[str, ...]:
        """What it printed last."""
        printed = await self._if_there(lambda api: api.logs(id, tail=count), self.wait)
        return shown_lines(printed or b"")

    async def image(self, name: str) -> Mapping[str, Any] | None:
        """All about an image; None: it is not on this machine."""
        return await self._if_there(lambda api: api.inspect_image(name))

    # -- networks ---------------------------------------------------------------------------------

    async def networks(self, labels: Sequence[str]) -> list[Network]:
        """Those with the labels (``name=value``)."""

        def listed(api: Any) -> list[Network]:
            return [Network.of(one) for one in api.networks(filters={"label": list(labels)})]

        return await self.call(listed)

    async def make_network(self, settings: Mapping[str, Any]) -> str:
        """The new one's id. `settings` are the body of the engine's API; status 409: the name is taken."""
        made: Mapping[str, Any] = await self.call(lambda api: _posted(api, "/networks/create", settings))
        return str(made["Id"])

    async def attach(self, container: str, network: str) -> None:
        """Put a container into a network, unless it is there."""
        try:
            await self.call(lambda api: api.connect_container_to_network(container, network))
        except EngineRefused as error:
            if "already exists in network" not in str(error):
                raise

    async def detach(self, container: str, network: str) -> None:
        """Take a container out of a network, if it is there."""
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
    """What the engine answers to a call that the client knows in part only."""
    return api._result(api._post_json(api._url(path), data=dict(body)), json=True)


def _let_go(error: BaseException | None) -> None:
    """Of what the error's frames hold: docker-py does not close sockets that it could not connect."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def shown_lines(printed: bytes) -> tuple[str, ...]:
    """For logs and terminals, which a program must not be able to command."""
    return tuple(map(_shown, printed.splitlines()))


def _shown(line: bytes) -> str:
    text = line[:MAX_LINE_BYTES].decode(errors="replace")
    return "".join(letter if letter.isprintable() or letter == "\t" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _cause(error: BaseException) -> str:
    """What the operating system said, deep within; or else the error's own words."""
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
