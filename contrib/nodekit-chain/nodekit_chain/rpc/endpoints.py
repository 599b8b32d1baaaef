"""Several endpoints of one chain: the first in order of preference that answers."""

import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Self

import aiohttp
import anyio
import msgspec

from nodekit_chain.rpc.endpoint import Endpoint
from nodekit_chain.rpc.failures import EndpointFailed, NoEndpoint, pause_seconds
from nodekit_chain.rpc.questions import Question, Refused

logger = logging.getLogger("nodekit.chain")


class EndpointSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the requests to endpoints.

    - `chain_id`: Id of the chain. None: that of the first endpoint that answers; others must serve the same one.
    - `call_seconds`: Time limit of a request.
    - `most_bytes`: Longest answer that is read.
    - `most_questions`: Questions in one request. An endpoint that takes fewer is asked in smaller ones.
    """

    chain_id: int | None = None
    call_seconds: float = 10.0
    most_bytes: int = 32 << 20
    most_questions: int = 100


class EndpointState(msgspec.Struct):
    """The state of an endpoint.

    - `failures`: Failures in a row.
    - `rests_until`: Time, of the event loop, until which it is not asked.
    - `reason`: Its last failure; empty if it answers.
    - `requests`: Number of batches that it was asked.
    """

    name: str
    failures: int = 0
    rests_until: float = 0.0
    reason: str = ""
    requests: int = 0


class Endpoints:
    """The endpoints of a chain, open while it is entered. An `Rpc`.

    A request goes to the first endpoint, in the order of the URLs, that is not left alone after a failure; if that one
    fails, to the next one. Pauses double up to a minute. After a repair, the first one is used again. A question that
    an endpoint answers with a fault of its own goes to the next one, too, without the others.
    """

    def __init__(
        self,
        urls: Sequence[str],
        settings: EndpointSettings | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        """`random` gives numbers from 0 to 1, for the pauses."""
        self._urls, self._settings = tuple(urls), settings or EndpointSettings()
        self._random = random or Random().random
        self._endpoints: list[tuple[Endpoint, EndpointState]] = []
        self.chain_id = self._settings.chain_id
        """Id of the chain; None until an endpoint has answered."""

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._settings.call_seconds)
        self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        self._endpoints = [self._opened(url) for url in self._urls]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._endpoints = []
        with anyio.CancelScope(shield=True):
            await self._session.close()

    def _opened(self, url: str) -> tuple[Endpoint, EndpointState]:
        given = self._settings
        limits = {"most_bytes": given.most_bytes, "most_questions": given.most_questions}
        endpoint = Endpoint(self._session, url, seconds=given.call_seconds, **limits)
        return endpoint, EndpointState(endpoint.name)

    @property
    def states(self) -> Sequence[EndpointState]:
        """The states of the endpoints, in order of preference."""
        return [state for _, state in self._endpoints]

    @property
    def problems(self) -> list[str]:
        """Sentences about the endpoints that do not answer, for an operator."""
        return [f"the RPC endpoint {state.name} fails: {state.reason}" for state in self.states if state.reason]

    async def batch(self, questions: Sequence[Question]) -> list[Any | Refused]:
        """Ask all in one request. Return the results in their order, a `Refused` for each error among them.

        Raise `NoEndpoint` if none answers; endpoints that are left alone are not asked then.
        """
        replies: dict[int, Any | Refused] = {}
        left = list(range(len(questions)))
        for endpoint, state in self._endpoints:
            if state.rests_until > anyio.current_time():
                continue
            state.requests += 1
            try:
                chain_id, found = await endpoint.ask([questions[place] for place in left], self.chain_id)
            except EndpointFailed as error:
                self._failed(state, error)
                continue
            self._answered(state, chain_id)
            replies |= zip(left, found, strict=True)
            left = [place for place in left if _is_fault(replies[place])]
            if not left:
                break
        if len(replies) < len(questions):
            raise self._none()
        return [replies[place] for place in range(len(questions))]

    def _failed(self, state: EndpointState, error: EndpointFailed) -> None:
        now = anyio.current_time()
        if state.rests_until <= now:  # requests that fail at the same time count once
            state.failures += 1
            pause = pause_seconds(state.failures, error.retry_after, self._random)
            state.rests_until = now + pause
            logger.warning("RPC endpoint %s: %s; it is asked again in %.1f s", state.name, error, pause)
        state.reason = str(error)

    def _answered(self, state: EndpointState, chain_id: int | None) -> None:
        if self.chain_id is None:
            self.chain_id = chain_id
        if state.reason:
            logger.info("RPC endpoint %s answers again", state.name)
        state.failures, state.reason, state.rests_until = 0, "", 0.0

    def _none(self) -> NoEndpoint:
        now = anyio.current_time()
        reasons = "; ".join(f"{state.name}: {state.reason}" for state in self.states)
        first = min((state.rests_until - now for state in self.states), default=0.0)
        return NoEndpoint(f"no RPC endpoint answers ({reasons or 'there is none'})", max(0.0, first))


def _is_fault(reply: Any | Refused) -> bool:
    return isinstance(reply, Refused) and reply.is_fault
