"""Callers of requests that last: their right to an answer may end before the answer does."""

from collections.abc import Sequence

import anyio
from msgspec.structs import replace

from nodekit import Connection, Forbidden, Identity, Node, Unauthorized

CHECK_SECONDS = 0.4
"""Pause between two looks at the caller of a request that lasts: a revoked key has to be refused within a second."""


class CallerLost(Exception):
    """The node does not know the caller any more as the one who sent the request.

    `status`, `text` and `headers` are those of the reply, if none has begun.
    """

    def __init__(self, reason: Exception | None) -> None:
        self.status = 403 if isinstance(reason, Forbidden) else 401
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        self.text = "the caller is not known any more"
        if isinstance(reason, Unauthorized | Forbidden):
            self.text = reason.reason
        if isinstance(reason, Unauthorized):
            self.headers = challenge(reason)
        super().__init__(self.text)


class Caller:
    """The caller of one request, as the plugins of the node have identified it."""

    __slots__ = ("_checked_at", "_connection", "_identity", "_node")

    def __init__(self, node: Node, connection: Connection, identity: Identity) -> None:
        self._node, self._connection, self._identity = node, replace(connection, repeated=True), identity
        self._checked_at = anyio.current_time()

    async def check(self) -> None:
        """Raise `CallerLost` if the caller is another one by now, or none. It asks no more often than it has to."""
        if anyio.current_time() - self._checked_at < CHECK_SECONDS:
            return
        try:
            identity = await self._node.identify(self._connection)
        except Exception as error:  # as for a new request: a plugin that fails lets nobody in
            raise CallerLost(error) from error
        if identity != self._identity:
            raise CallerLost(None)
        self._checked_at = anyio.current_time()

    async def lost(self) -> CallerLost:
        """Return once the caller is another one, or none."""
        while True:
            await anyio.sleep(CHECK_SECONDS)
            try:
                await self.check()
            except CallerLost as lost:
                return lost


def challenge(error: Unauthorized) -> Sequence[tuple[bytes, bytes]]:
    """Return the header that tells a caller how to say who it is."""
    return [(b"www-authenticate", error.challenge.encode("latin-1", "replace"))]
