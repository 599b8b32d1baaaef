"""One endpoint: HTTP requests, and what they cannot bring is an `EndpointFailed`."""

import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from nodekit import time_limit
from nodekit_chain.rpc.failures import EndpointFailed
from nodekit_chain.rpc.questions import Question, Refused, quantity, shown
from nodekit_chain.rpc.wire import BatchRefused, answers, encoded

CHUNK_BYTES = 1 << 16
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


class Endpoint:
    """An address that answers JSON-RPC.

    - `name`: Its host and port; the rest of a URL often holds a key, and is never shown.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, *, seconds: float, most_bytes: int, most_questions: int
    ) -> None:
        self._session, self._url = session, url
        self._seconds, self._most_bytes, self._most_questions = seconds, most_bytes, most_questions
        self._is_known = False
        """True once it has said which chain it serves, until it fails."""
        self.name = endpoint_name(url)

    async def ask(self, questions: Sequence[Question], chain_id: int | None) -> tuple[int | None, list[Any | Refused]]:
        """Return the answers and, after a failure and at first, the id of its chain. Raise `EndpointFailed`.

        An endpoint of another chain than `chain_id` fails.
        """
        first = () if self._is_known else (Question("eth_chainId"),)
        try:
            replies = await self._batches([*first, *questions])
            found = self._checked(replies[0], chain_id) if first else None
        except EndpointFailed:
            self._is_known = False
            raise
        self._is_known = True
        return found, replies[len(first) :]

    def _checked(self, reply: Any, expected: int | None) -> int:
        try:
            found = quantity(reply)
        except Exception as error:
            raise EndpointFailed(f"it does not say which chain it serves: {shown(error)}") from error
        if expected not in (None, found):
            raise EndpointFailed(f"it serves chain {found}, not {expected}; correct rpc_url")
        return found

    async def _batches(self, questions: list[Question]) -> list[Any | Refused]:
        """Ask in as few requests as the endpoint takes. What it was found to take is remembered."""
        replies: list[Any | Refused] = []
        most = self._most_questions
        while len(replies) < len(questions):
            some = questions[len(replies) : len(replies) + most]
            try:
                replies += await answers(await self._post(encoded(some, single=most == 1)), len(some))
            except BatchRefused as refusal:
                most = len(some) // 2
                if not refusal.is_fault:
                    self._most_questions = most
        return replies

    async def _post(self, body: bytes) -> bytes:
        with time_limit(self._seconds) as limit:
            try:
                try:
                    return await self._exchange(body)
                except aiohttp.ServerDisconnectedError:  # a connection that was kept, and closed meanwhile
                    return await self._exchange(body)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise self._unreachable(error) from None  # a traceback would show the URL
        assert limit.cancelled_caught
        raise EndpointFailed(f"it gives no answer within {self._seconds:g} s")

    def _unreachable(self, error: Exception) -> EndpointFailed:
        """Return the failure for a connection's error. Only its kind is told: its text may hold the URL."""
        reason = getattr(error, "os_error", error)
        text = type(error).__name__
        if isinstance(reason, OSError) and reason.errno is not None:
            named = os.strerror(reason.errno) if reason.errno > 0 else reason.strerror  # below 0: of a name server
            text = named or text
        return EndpointFailed(f"it cannot be reached: {shown(text)}")

    async def _exchange(self, body: bytes) -> bytes:
        async with self._session.post(self._url, data=body, headers=HEADERS, allow_redirects=False) as response:
            if response.status == 429:
                asked = _seconds(response.headers.get("Retry-After"))
                raise EndpointFailed("it has had too many requests (429)", asked)
            data = await self._read(response)
            if response.status != 200 and not _may_hold_errors(response.status, data):
                raise EndpointFailed(f"it answers with status {response.status}")
            return data

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        data = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            data += chunk
            if len(data) > self._most_bytes:
                raise EndpointFailed(f"its answer is longer than {self._most_bytes} bytes")
        return bytes(data)


def endpoint_name(url: str) -> str:
    """Return what is shown of a URL: host and port. Raise `ValueError` for what is no URL of HTTP."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http://… or https://…")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port}" if parts.port else host


def _may_hold_errors(status: int, data: bytes) -> bool:
    """Return True for a client error whose body is JSON-RPC: some endpoints answer so to a question they refuse."""
    return 400 <= status < 500 and status not in (401, 403, 404) and b'"jsonrpc"' in data


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 9 else 0.0
