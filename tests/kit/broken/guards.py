"""Guards that break a promise each. `tests/kit/test_caught.py` runs the suite on them."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from nodekit import JobRequest, Refusal, decode_payload
from nodekit.testing import GuardContract, make_request


class Sound:
    """Refuses clients called Mallory, and requests that are too large."""

    async def nodekit_admit(self, request: JobRequest) -> None:
        if request.client == "mallory":
            raise Refusal("Not you", client=request.client)
        if (size := self.size(request)) > 100:
            raise Refusal("Too large", size=size)

    def size(self, request: JobRequest) -> float:
        try:
            return self.sized(decode_payload(request.data))
        except msgspec.MsgspecError:
            return 0

    def sized(self, data: Any) -> float:
        size = data.get("size") if isinstance(data, dict) else None
        return size if isinstance(size, int) else 0


class ChokesOnOddData(Sound):
    def sized(self, data: Any) -> float:
        return data.get("size", 0)


class ChokesOnHugeNumbers(Sound):
    def size(self, request: JobRequest) -> float:
        return self.sized(decode_payload(request.data))


class LetsAnybodyIn(Sound):
    async def nodekit_admit(self, request: JobRequest) -> None:
        if request.client == "mallory":
            return
        await super().nodekit_admit(request)


class LetsNobodyIn(Sound):
    async def nodekit_admit(self, request: JobRequest) -> None:
        raise Refusal("Go away")


class RacesWithItself(Sound):
    """Keeps the request in an attribute that concurrent calls share."""

    async def nodekit_admit(self, request: JobRequest) -> None:
        self.request = request
        await anyio.lowlevel.checkpoint()
        await super().nodekit_admit(self.request)


class ChangesRequests(Sound):
    async def nodekit_admit(self, request: JobRequest) -> None:
        msgspec.structs.force_setattr(request, "priority", 7)
        await super().nodekit_admit(request)


class KeepsRequests(Sound):
    def __init__(self) -> None:
        self.seen: list[JobRequest] = []

    async def nodekit_admit(self, request: JobRequest) -> None:
        self.seen.append(request)
        await super().nodekit_admit(request)


class SaysNothing(Sound):
    async def nodekit_admit(self, request: JobRequest) -> None:
        try:
            await super().nodekit_admit(request)
        except Refusal:
            raise Refusal("") from None


class SaysWhatNoClientCanRead(Sound):
    async def nodekit_admit(self, request: JobRequest) -> None:
        try:
            await super().nodekit_admit(request)
        except Refusal as refusal:
            raise Refusal(refusal.reason, guard=self) from None


class BlocksTheLoop(Sound):
    blocked = False

    async def nodekit_admit(self, request: JobRequest) -> None:
        if not self.blocked:
            self.blocked = True
            time.sleep(1)
        await super().nodekit_admit(request)


class IsStuckOnceItIsCancelled(Sound):
    def __init__(self) -> None:
        self.lock = anyio.Lock()

    async def nodekit_admit(self, request: JobRequest) -> None:
        await self.lock.acquire()
        await anyio.sleep(0.005)
        self.lock.release()
        await super().nodekit_admit(request)


class LeavesATask(Sound):
    @asynccontextmanager
    async def nodekit_lifespan(self) -> AsyncIterator[None]:
        import asyncio

        self.task = asyncio.create_task(asyncio.sleep(60), name="refreshing the list")
        yield


class BlocksTheStart(Sound):
    @asynccontextmanager
    async def nodekit_lifespan(self) -> AsyncIterator[None]:
        time.sleep(1)
        yield


class HoldsUpTheEnd(Sound):
    """Makes a node that is cancelled wait for it."""

    @asynccontextmanager
    async def nodekit_lifespan(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:  # loses the cancellation
            return


class Suite(GuardContract):
    subject: type[Sound]

    @pytest.fixture
    def guard(self) -> Sound:
        return self.subject()

    def welcome(self) -> Sequence[JobRequest]:
        return [make_request("echo"), make_request("echo", data={"size": 100})]

    def unwelcome(self) -> Sequence[JobRequest]:
        return [make_request("echo", client="mallory"), make_request("echo", data={"size": 101})]


HURRIED = {"timeout_seconds": 5.0}
