"""The plugin itself: its hooks."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import anyio

from nodekit import ClientLimits, Connection, Forbidden, Identity, JobRequest, Node, Refusal, SystemClock
from nodekit_apikeys._failures import Failures
from nodekit_apikeys._key import Policy, Scope, is_name
from nodekit_apikeys._key_file import KeyFile
from nodekit_apikeys._keyring import Keyring, NoKey, presented_text
from nodekit_apikeys._operations import needed, reads_result
from nodekit_apikeys._rates import Rates
from nodekit_apikeys._stored_keys import NAMESPACE, StoredKeys

logger = logging.getLogger("nodekit.apikeys")

OWN = "local"
"""Client of the jobs that the node's own program submits."""
LAST_SECONDS = 2.0
"""Time that the last write has when the node stops: its folder may hang."""
USED_SECONDS = 30.0
"""Pause between two writes of the last use of keys."""

_READ: frozenset[Scope] = frozenset({"read"})


class KeySource(Protocol):
    """The keys that a node follows.

    - `keys`: The keys as they were read last.
    - `without_keys`: What to do if nobody has made a key yet; None otherwise.
    - `look_seconds`: Pause between two looks: with the time to read, a revoked key is refused within a second.
    """

    keys: Keyring
    look_seconds: float

    @property
    def without_keys(self) -> str | None: ...

    async def begin(self, node: Node) -> None:
        """Read the keys. Raise `NodekitError` if they cannot be read."""
        ...

    async def look(self) -> str | None:
        """Read the keys if they have changed. Return a problem, with which they stay as they were, or None."""
        ...

    async def write_used(self, times: Mapping[str, float]) -> None:
        """Keep the times at which keys were used, by id. A failure is logged: it harms nobody."""
        ...

    def for_anybody(self, problem: str) -> str:
        """Return a problem as everybody may read it: it does not say where the keys are."""
        ...


class WrongAddress(Forbidden):
    """A key is used from an address that is in none of its networks."""


class ApiKeys:
    """Identifies callers by keys, and holds them to what their keys allow.

    The keys are in the file at `path`, or in the node's store if that is None.

    `anonymous` is the policy of callers without a key, whose client is their address. None: they are turned away.
    `slow_down_seconds` is the longest time that a wrong key waits for its answer, if its address has failed often.
    """

    def __init__(self, path: Path | None, *, anonymous: Policy | None = None, slow_down_seconds: float = 1.0) -> None:
        self._source: KeySource = StoredKeys() if path is None else KeyFile(path)
        self.storage_namespace = NAMESPACE if path is None else None
        self._anonymous = anonymous
        self._slow_down_seconds = slow_down_seconds
        self._problem: str | None = None
        self._used: dict[str, float] = {}
        """Last uses by id, since they were last written."""
        clock = SystemClock()  # until the node has begun
        self._failures, self._rates = Failures(slow_down_seconds, clock.monotonic), Rates(clock.monotonic)

    # -- the keys ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def nodekit_lifespan(self, node: Node) -> AsyncIterator[None]:
        monotonic = node.clock.monotonic
        self._failures, self._rates = Failures(self._slow_down_seconds, monotonic), Rates(monotonic)
        await self._source.begin(node)
        self._report(None)
        try:
            yield
        finally:
            with anyio.move_on_after(LAST_SECONDS, shield=True):
                await self._write_used()

    async def nodekit_run(self, node: Node) -> None:
        """Follow the keys. If they cannot be read, the last good ones remain, and the health has a problem."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_used)
            while True:
                await anyio.sleep(self._source.look_seconds)
                self._report(await self._source.look())

    def _report(self, problem: str | None) -> None:
        if problem is None and self._anonymous is None:
            problem = self._source.without_keys
        if problem is not None and problem != self._problem:
            logger.warning("%s", problem)
        self._problem = problem

    async def _keep_used(self) -> None:
        while True:
            await anyio.sleep(USED_SECONDS)
            await self._write_used()

    async def _write_used(self) -> None:
        times, self._used = self._used, {}
        if times:
            await self._source.write_used(times)

    def nodekit_problems(self) -> Sequence[str]:
        return [self._source.for_anybody(self._problem)] if self._problem else []

    # -- who it is --------------------------------------------------------------------------------

    async def nodekit_identify(self, connection: Connection, node: Node) -> Identity:
        now = node.now()
        try:
            text = presented_text(connection)
            if text is None and self._anonymous is None:
                raise NoKey("a key is needed: Authorization: Bearer nk_…")
            key = None if text is None else self._source.keys.find(text, now)
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
        self._used[key.id] = now
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
        key = self._source.keys.by_name.get(request.client)
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
        key = self._source.keys.by_name.get(client)
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
