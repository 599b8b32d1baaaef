"""The plugin itself: its hooks, and the file that it follows."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from nodekit import ClientLimits, Connection, Forbidden, Identity, JobRequest, Node, Refusal, SystemClock
from nodekit_apikeys._failures import Failures
from nodekit_apikeys._file import KeyFileProblem, Signature, read_keys, signature_of
from nodekit_apikeys._key import Policy, Scope, is_name
from nodekit_apikeys._keyring import Keyring, NoKey, presented_text
from nodekit_apikeys._last_use import LastUse
from nodekit_apikeys._operations import needed, reads_result
from nodekit_apikeys._rates import Rates

logger = logging.getLogger("nodekit.apikeys")

OWN = "local"
"""Client of the jobs that the node's own program submits."""
AGAIN_SECONDS = 5.0
"""Pause until a broken file is read again that has not changed: its disk may have failed for a moment."""
LOOK_SECONDS = 0.25
"""Pause between two looks at the file: with the time to read it, a revoked key is refused within a second."""
LAST_SECONDS = 2.0
"""Time that the last write has when the node stops: its folder may hang."""
USED_SECONDS = 30.0
"""Pause between two writes of the last use of keys."""

_READ: frozenset[Scope] = frozenset({"read"})

T = TypeVar("T")


class WrongAddress(Forbidden):
    """A key is used from an address that is in none of its networks."""


class ApiKeys:
    """Identifies callers by keys that a file lists, and holds them to what their keys allow.

    `anonymous` is the policy of callers without a key, whose client is their address. None: they are turned away.
    `slow_down_seconds` is the longest time that a wrong key waits for its answer, if its address has failed often.
    """

    def __init__(self, path: Path, *, anonymous: Policy | None = None, slow_down_seconds: float = 1.0) -> None:
        self.path = path
        self._anonymous = anonymous
        self._slow_down_seconds = slow_down_seconds
        self._keys = Keyring.of(())
        self._signature: Signature | None = None
        self._problem: str | None = None
        self._used = LastUse()
        self._broken: Signature | None = None
        """Signature of a file that could not be read, which is not read again until `_again_at`."""
        self._again_at = 0.0
        clock = SystemClock()  # until the node has begun
        self._monotonic = clock.monotonic
        self._failures, self._rates = Failures(slow_down_seconds, clock.monotonic), Rates(clock.monotonic)

    # -- the file ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def nodekit_lifespan(self, node: Node) -> AsyncIterator[None]:
        monotonic = self._monotonic = node.clock.monotonic
        self._failures, self._rates = Failures(self._slow_down_seconds, monotonic), Rates(monotonic)
        self._thread = anyio.CapacityLimiter(1)
        self._take(*await self._in_thread(partial(_read, self.path)))
        try:
            yield
        finally:
            with anyio.move_on_after(LAST_SECONDS, shield=True):
                await self._write_used()

    async def nodekit_run(self, node: Node) -> None:
        """Follow the file. One that is broken, or gone, leaves the last good keys, and is a problem in the health."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_used)
            while True:
                await anyio.sleep(LOOK_SECONDS)
                self._report(await self._look())

    async def _look(self) -> str | None:
        """Take the keys of a file that has changed. Return the problem with it, or None."""
        try:
            signature = await self._in_thread(partial(signature_of, self.path))
            if signature == self._signature:
                return self._missing()
            if signature is None:
                return f"{self.path} is gone; the keys are those from before"
            if signature == self._broken and self._monotonic() < self._again_at:
                return self._problem
            self._broken, self._again_at = signature, self._monotonic() + AGAIN_SECONDS
            self._take(*await self._in_thread(partial(_read, self.path)))
            return self._missing()
        except KeyFileProblem as error:
            return f"{error}; the keys are those from before"
        except (RuntimeError, MemoryError) as error:  # no thread can be started: that must not end the node
            return f"{self.path} cannot be followed ({type(error).__name__}); the keys are those from before"

    async def _in_thread(self, function: Callable[[], T]) -> T:
        """Call a function in a thread that waits for no other work. A folder that hangs does not keep the node."""
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=self._thread)

    def _take(self, keys: Keyring, signature: Signature | None) -> None:
        self._keys, self._signature, self._broken = keys, signature, None
        self._report(self._missing())

    def _missing(self) -> str | None:
        if self._signature is not None or self._anonymous is not None:
            return None
        return f"there is no file of keys at {self.path}; make it: nodekit keys create FILE --name NAME"

    def _report(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            logger.warning("%s", problem)
        self._problem = problem

    async def _keep_used(self) -> None:
        while True:
            await anyio.sleep(USED_SECONDS)
            await self._write_used()

    async def _write_used(self) -> None:
        if times := self._used.take():
            with suppress(RuntimeError, MemoryError):  # as above; these times are lost
                await self._in_thread(partial(self._used.write, self.path, times, self._keys.by_id))

    def nodekit_problems(self) -> Sequence[str]:
        # anybody may read these, so they do not say where the file is
        return [self._problem.replace(str(self.path), self.path.name)] if self._problem else []

    # -- who it is --------------------------------------------------------------------------------

    async def nodekit_identify(self, connection: Connection, node: Node) -> Identity:
        now = node.now()
        try:
            text = presented_text(connection)
            if text is None and self._anonymous is None:
                raise NoKey("a key is needed: Authorization: Bearer nk_…")
            key = None if text is None else self._keys.find(text, now)
        except NoKey as refused:
            await self._slow_down(connection, refused)
            raise
        if key is None:
            assert self._anonymous is not None
            _check(self._anonymous, connection)
            return Identity(client=connection.client, address=connection.address)
        try:
            _check(key, connection)
        except WrongAddress:
            self._failures.count(connection.client, f"{key.name}: a key that may not be used from there")
            raise
        self._used.note(key.id, now)
        return Identity(client=key.name, group=key.group, operator=key.operates, address=connection.address)

    async def _slow_down(self, connection: Connection, refused: NoKey) -> None:
        """Let a caller wait that tries keys. One without a key, or whose key is over, does not wait."""
        if connection.repeated or not (refused.guessed or refused.ended):
            return
        whose = f"{refused.ended}: " if refused.ended else ""
        seconds = self._failures.count(connection.client, f"{whose}{refused.reason}")
        if seconds and refused.guessed:
            await anyio.sleep(seconds)

    # -- what it may do ---------------------------------------------------------------------------

    def nodekit_limit(self, identity: Identity) -> None:
        policy = self._policy(identity.client)
        if policy is not None and policy.requests_per_minute is not None:
            who = identity.client if policy is not self._anonymous else f"/{identity.group}"
            self._rates.take(who, policy.requests_per_minute)

    async def nodekit_admit(self, request: JobRequest, node: Node) -> None:
        policy = self._policy(request.client)
        if policy is None:
            return
        key = self._keys.by_name.get(request.client)
        if key is not None and (state := key.state(node.now())) != "valid":
            raise Refusal(f"The key of the client has {'been revoked' if state == 'revoked' else 'expired'}")
        for container in request.containers:
            if policy.containers and container not in policy.containers:
                raise Refusal("Container not allowed for client", container=container)
        if policy.pipelines and request.pipeline not in policy.pipelines:
            raise Refusal("Pipeline not allowed for client", pipeline=request.pipeline)

    def nodekit_client_limits(self, client: str) -> ClientLimits | None:
        policy = self._policy(client)
        return None if policy is None else policy.limits

    def _policy(self, client: str) -> Policy | None:
        """Return the policy of a client. Return None for one that this plugin did not name, such as the node's own."""
        key = self._keys.by_name.get(client)
        if key is not None:
            return key
        return None if client == OWN or is_name(client) else self._anonymous


def _check(policy: Policy, connection: Connection) -> None:
    """Raise `Forbidden` if the policy does not allow the operation, or not from this address."""
    if not policy.allows_address(connection.address):
        raise WrongAddress("this key may not be used from this address")
    scopes = needed(connection)
    if not policy.allows(scopes):
        raise Forbidden(f"this needs a key with the scope {' or '.join(sorted(scopes))}")
    if "submit" in scopes and reads_result(connection) and not policy.allows(_READ):
        raise Forbidden("Prefer: wait needs a key with the scope read")


def _read(path: Path) -> tuple[Keyring, Signature | None]:
    keys, signature = read_keys(path)
    return Keyring.of(keys), signature
