"""A client's connection to the engine: its calls, and what the engine tells it without being asked."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Any

import anyio
import msgspec
from anyio.abc import ByteStream

from nodekit import Change, Clock, JobId, StoreFailed
from nodekit.concurrency.signal import Signal
from nodekit.testing.shared_store.engine import granted
from nodekit.testing.shared_store.wire import (
    BROKEN,
    CANCEL,
    LOST,
    MAX_FRAME_BYTES,
    Answer,
    Frames,
    ProtocolError,
    Request,
    decode_answer,
    encode,
    error_of,
    method_of,
    raw,
)

_decode_token = msgspec.json.Decoder(int).decode
_decode_change = msgspec.json.Decoder(Change | None).decode
_GRANTING = {"claim", "add_claimed"}
"""Calls that return claims, which must not be lost with the call."""


_RENEWING = {"renew", "resume"}
_NO = raw(False)


class _Call:
    """A call whose caller waits for its answer."""

    def __init__(self, method: str, sent_at: float) -> None:
        self.method, self.sent_at = method, sent_at
        self.done = anyio.Event()
        self.answer: Answer | None = None

    @property
    def renews(self) -> bool:
        """True if the answer says that the session lives."""
        answer = self.answer
        return self.method in _RENEWING and answer is not None and answer.failure is None and answer.value != _NO


class Line:
    """One connection, until it breaks.

    `lose` is called with the tokens of lost claims, and `renewed` with the times of calls that renewed the session,
    before an answer behind theirs is known.
    """

    def __init__(
        self, stream: ByteStream, lose: Callable[[int], None], renewed: Callable[[float], None], clock: Clock
    ) -> None:
        self.gone = anyio.Event()
        self._frames = Frames(stream)
        self._lose, self._renewed, self._clock = lose, renewed, clock
        self._numbers = count(1)
        self._outbox: deque[bytes] = deque()
        self._filled = Signal()
        self._calls: dict[int, _Call] = {}
        self._given_up: dict[int, str] = {}
        """Methods of calls whose callers have gone, and whose answers may have claims."""
        self._followers: dict[int, Callable[[Change | None], None]] = {}

    async def run(self) -> None:
        """Send and receive until the connection breaks; then fail the calls that wait."""
        try:
            async with anyio.create_task_group() as tasks:
                for work in (self._write, self._read):
                    tasks.start_soon(self._until_broken, work, tasks.cancel_scope)
        finally:
            self.gone.set()
            for call in self._calls.values():
                call.done.set()

    async def _until_broken(self, work: Callable[[], Any], scope: anyio.CancelScope) -> None:
        try:
            await work()
        except (*BROKEN, ProtocolError, msgspec.DecodeError):
            scope.cancel()

    async def _write(self) -> None:
        while True:
            while self._outbox:
                await self._frames.send(self._outbox.popleft())
            await self._filled.wait()

    async def _read(self) -> None:
        while True:
            self._take(decode_answer(await self._frames.receive()))

    def _take(self, answer: Answer) -> None:
        if answer.id == LOST:
            self._lose(_decode_token(answer.value))
        elif answer.id in self._calls:
            call = self._calls.pop(answer.id)
            call.answer = answer
            if call.renews:
                self._renewed(call.sent_at)
            call.done.set()
        elif answer.id in self._followers:
            self._followers[answer.id](_decode_change(answer.value))
        elif method := self._given_up.pop(answer.id, None):
            self._return_claims(method, answer)

    # -- calls ------------------------------------------------------------------------------------

    async def call(self, method: str, /, namespace: str = "", **arguments: Any) -> Any:
        """Make a call. Raise `StoreFailed` if the connection breaks, and what the engine raises."""
        value = await self._answer(next(self._numbers), method, namespace, arguments)
        try:
            return method_of(method, namespace).result(value)
        except msgspec.DecodeError as error:
            raise StoreFailed(f"the answer of the engine is not valid: {error}") from error

    async def follow(self, ids: Collection[JobId] | None, put: Callable[[Change | None], None]) -> int:
        """Let `put` be called with changes, from now on. Return the number with which to end this."""
        number = next(self._numbers)
        self._followers[number] = put
        try:
            await self._answer(number, "relay", "", {"ids": ids})
        except BaseException:
            self.unfollow(number)
            raise
        return number

    def unfollow(self, number: int) -> None:
        if self._followers.pop(number, None):
            self._post(encode(Request(number, CANCEL)))

    async def _answer(self, number: int, method: str, namespace: str, arguments: dict[str, Any]) -> msgspec.Raw:
        frame = encode(Request(number, method, raw(arguments), namespace))
        if len(frame) > MAX_FRAME_BYTES:
            raise StoreFailed(f"{method} needs {len(frame)} bytes, more than {MAX_FRAME_BYTES}; ask for less at once")
        if self.gone.is_set():
            raise StoreFailed("the connection to the engine is broken")
        self._post(frame)
        call = self._calls[number] = _Call(method, self._clock.monotonic())
        try:
            await call.done.wait()
        except BaseException:
            if method in _GRANTING and call.answer is not None:
                self._return_claims(method, call.answer)
            elif self._calls.pop(number, None) and method in _GRANTING:
                self._given_up[number] = method
                self._post(encode(Request(number, CANCEL)))
            raise
        if call.answer is None:
            raise StoreFailed("the connection to the engine broke; it may have done what was asked")
        if call.answer.failure is not None:
            raise error_of(call.answer.failure)
        return call.answer.value

    def _return_claims(self, method: str, answer: Answer) -> None:
        """Give back the claims of an answer whose caller has gone."""
        if answer.failure is None:
            self.give_back([one.token for one in granted(method_of(method, "").result(answer.value))])

    def give_back(self, tokens: Sequence[int]) -> None:
        """Give back claims, without waiting for it."""
        self._post(encode(Request(next(self._numbers), "give_back", raw({"tokens": tokens}))))

    def _post(self, frame: bytes) -> None:
        self._outbox.append(frame)
        self._filled.set()
