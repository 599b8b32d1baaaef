"""The connections to containers: what is kept, and what is used again."""

import logging
import os
import select
import socket
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeAlias

import aiohttp
from aiohttp.client_proto import ResponseHandler

from nodekit import ContainerFailed, time_limit
from nodekit_remote._idle import IdleRule, trial_seconds
from nodekit_remote._loopback import Resolver

KEEP_ALIVE_SECONDS = 1.5
"""Shorter than any common server's time, so that no call is sent on a connection that is being closed."""
DNS_SECONDS = 30

CheckConnection: TypeAlias = Callable[[tuple[str, int], tuple[str, int]], None]
"""Checks a connection by its own address and its peer's. Raises `ContainerFailed` if it must not be used."""

logger = logging.getLogger("nodekit.remote")


class Exchange:
    """One request, as the session and the connector see it."""

    __slots__ = ("answered", "fresh", "reused", "rule")

    def __init__(self, *, fresh: bool) -> None:
        self.fresh = fresh
        """True if it needs a connection that was never used."""
        self.reused = False
        """True if it got one that was used before."""
        self.answered = False
        """True once the first byte of a reply has come."""
        self.rule: IdleRule | None = None
        """The rule of the container's connections, if it needed a new one."""

    def answer(self) -> None:
        self.answered = True
        if self.rule is not None:
            self.rule.answered(self)

    def end(self) -> None:
        if self.rule is not None:
            self.rule.ended(self)


EXCHANGE: ContextVar[Exchange] = ContextVar("exchange")


class Kept(ResponseHandler):
    """The protocol of a connection that may be kept. It notices what comes while nobody waits for a reply."""

    waits = True
    """False while the connection is kept."""
    was_used = False
    has_unasked = False
    """True if something came that nobody had asked for. aiohttp would take it for the beginning of the next reply."""

    exchange: Exchange | None = None
    """The request that was sent on it last."""
    since = 0.0
    """Time at which that request got the connection."""

    def data_received(self, data: bytes) -> None:
        if data and not self.waits:  # none: aiohttp only goes on reading
            self.has_unasked = True
        elif data and self.exchange is not None and not self.exchange.answered:
            self.exchange.answer()
        super().data_received(data)


class Connector(aiohttp.TCPConnector):
    """A connector whose kept connections are used again only if nothing has arrived on them.

    Such bytes would be read as the beginning of the next reply, and so one job's output would become another's. They
    can also arrive a moment later, when nobody can tell. So connections to a container that has once sent some are not
    kept any more. An `IdleRule` for each container says how many are kept.
    """

    def __init__(self, connect_seconds: float, check: CheckConnection | None) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType] - the type of its `socket_factory`
            limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ttl_dns_cache=DNS_SECONDS, resolver=Resolver()
        )
        self._factory = partial(Kept, loop=self._loop)  # type: ignore[assignment]  # a subclass
        self._connect_seconds, self._check = connect_seconds, check
        self._talkative: set[Any] = set()
        """The keys of containers that have sent more than they were asked for."""
        self._rules: defaultdict[Any, IdleRule] = defaultdict(IdleRule)

    async def connect(self, req: aiohttp.ClientRequest, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - aiohttp's
        exchange = EXCHANGE.get()
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol: Any = connection.protocol
            protocol.waits, protocol.exchange, protocol.since = True, exchange, self._loop.time()
            if not protocol.was_used:
                protocol.was_used, exchange.reused = True, False
                if req.connection_key in self._talkative:
                    protocol.force_close()
                return connection
            if not (exchange.fresh or protocol.has_unasked or protocol.should_close or _is_readable(connection)):
                exchange.reused = True
                return connection
            if protocol.has_unasked or protocol.should_close or _has_bytes(connection):
                self._is_talkative(req.connection_key, req.url)
            connection.close()

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - aiohttp's
        exchange = EXCHANGE.get()
        exchange.rule = self._rules[req.connection_key]
        exchange.rule.waits(exchange)
        with time_limit(self._connect_seconds):
            protocol = await super()._create_connection(req, traces, timeout)
            if self._check is not None:
                _check(protocol, self._check)
            return protocol
        raise aiohttp.ConnectionTimeoutError

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        protocol.waits, protocol.exchange = False, None
        should_close = should_close or protocol.should_close or not self._may_stay(key, protocol)
        super()._release(key, protocol, should_close=should_close)

    def _may_stay(self, key: Any, protocol: Any) -> bool:
        """Return True if the rule keeps the connection. A trial that begins now ends by itself."""
        if (rule := self._rules.get(key)) is None:
            return True
        if rule.is_blank:
            del self._rules[key]
        answer = rule.released()
        if not isinstance(answer, bool):
            seconds = trial_seconds(self._loop.time() - protocol.since)
            self._loop.call_later(seconds, self._end_trial, key, rule, answer)
        return answer is not False

    def _end_trial(self, key: Any, rule: IdleRule, trial: object) -> None:
        if rule.expired(trial):
            for protocol, _ in self._conns.pop(key, ()):
                protocol.close()

    def _is_talkative(self, key: Any, url: Any) -> None:
        """Keep no connection of this container from now on."""
        if key not in self._talkative:
            self._talkative.add(key)
            text = "the container at %s sent more than one reply to a request; its connections are not kept any more"
            logger.warning(text, url)


def _check(protocol: Any, check: CheckConnection) -> None:
    """Check a new connection; close it if it must not be used."""
    transport = protocol.transport
    try:
        if transport is None:
            raise ContainerFailed("connection", "the container closed the connection at once")
        check(transport.get_extra_info("sockname"), transport.get_extra_info("peername"))
    except BaseException:
        protocol.close()
        raise


def _is_readable(connection: Any) -> bool:
    """Return True if there is anything to read, or the end of the connection."""
    poll = select.poll()
    poll.register(connection.transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _has_bytes(connection: Any) -> bool:
    """Return True if there are bytes to read that are part of a reply. TLS has bytes of its own, which say nothing."""
    if connection.transport is None or connection.transport.get_extra_info("ssl_object") is not None:
        return False
    try:
        number = os.dup(connection.transport.get_extra_info("socket").fileno())
        with closing(socket.socket(fileno=number)) as copy:
            return bool(copy.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False
