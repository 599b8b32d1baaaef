"""The wait until a process answers, and the words for what is missing meanwhile."""

import anyio

from nodekit import time_limit
from nodekit_process._config import ProcessContainer
from nodekit_process._peers import HOST, Peers
from nodekit_process._process import Process
from nodekit_remote import ContainerHttp, Endpoint, health_url, shown_places

PROBE_PAUSE_SECONDS = 0.02
LONGEST_PROBE_PAUSE_SECONDS = 0.25


class Arrival:
    """The wait for the first answer of a process at its port."""

    def __init__(
        self, container: ProcessContainer, process: Process, port: int, peers: Peers, http: ContainerHttp
    ) -> None:
        self._container, self._process, self._port = container, process, port
        self._peers, self._http = peers, http
        self._host = HOST
        self._stranger = ""
        """Text about somebody else who listens at the port."""
        self._trouble = ""
        """Text about an answer that did not come, although the process listens at the port."""

    @property
    def endpoint(self) -> Endpoint:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return Endpoint(f"http://{host}:{self._port}", f"{self._container.id}:{self._process.pid}", self._container)

    async def failure(self) -> str | None:
        """Wait until the process answers. Return None then, otherwise the reason why it does not."""
        seconds, pause = self._container.startup_seconds, PROBE_PAUSE_SECONDS
        with time_limit(seconds):
            await self._process.begun.wait()
            while True:
                if await self._answers() and not self._process.exited.is_set():
                    return None
                with anyio.move_on_after(pause):
                    await self._process.exited.wait()
                if self._process.exited.is_set():
                    taken = f"; {self._stranger}" if self._stranger else ""
                    return f"its process {self._process.ending} before it answered{taken}"
                pause = min(2 * pause, LONGEST_PROBE_PAUSE_SECONDS)
        return f"it did not answer at {self.endpoint.url} within {seconds:g} s; {self._missing()}"

    def waits_for(self) -> str:
        """Return what is waited for, and what is known about the reason."""
        if not self._process.begun.is_set():
            return "its process to begin"
        return f"{health_url(self.endpoint)} to answer: {self._missing()}"

    async def _answers(self) -> bool:
        self._host, stranger = self._peers.listens(self._port, self._process)
        if stranger is not None:
            self._stranger, self._trouble = stranger or self._stranger, ""
            return False
        self._trouble = await self._http.trouble(self.endpoint)
        return not self._trouble

    def _missing(self) -> str:
        if self._trouble:
            return f"it listens there, but: {self._trouble}"
        if self._stranger:
            return self._stranger
        rule = f"it must listen on {HOST} at the port in PORT, {self._port}"
        places = self._peers.places(self._process)
        is_wrong_port = places and not any(place.endswith(f":{self._port}") for place in places)
        cure = "; $PORT in its command is that port" if is_wrong_port else ""
        return f"{rule}, and listens on {shown_places(places)}{cure}"
