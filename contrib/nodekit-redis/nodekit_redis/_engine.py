"""The server, as the other modules call it: commands and scripts on a few connections."""

from collections.abc import Callable, Sequence
from typing import Any

import anyio
from anyio.abc import TaskGroup

from nodekit import StoreFailed
from nodekit_redis._address import Address, Command
from nodekit_redis._config import RedisConfig
from nodekit_redis._errors import CURE, Lost, refused
from nodekit_redis._line import Line, Replies
from nodekit_redis._scripts import Scripts


class Engine:
    """Connections to the server: some for calls, and one that renews the lease."""

    def __init__(self, config: RedisConfig) -> None:
        self.address = address = Address(config)
        self.seconds = max(5.0, config.lease_seconds) if config.call_seconds is None else config.call_seconds
        self._connect_seconds = config.connect_seconds
        self._lines = [
            Line(address, connect_seconds=config.connect_seconds, replicas=config.replicas)
            for _ in range(config.connections)
        ]
        self.lease_line = Line(address, connect_seconds=config.connect_seconds)
        self.scripts = Scripts(config.prefix)
        self.key = self.scripts.key

    # -- connecting -------------------------------------------------------------------------------

    async def connect(self, tasks: TaskGroup) -> None:
        """Begin to connect, and return when all connections are there. Raise `StoreFailed` if one is not made."""
        lines = (*self._lines, self.lease_line)
        tried = [line.tried.next() for line in lines]
        for line in lines:
            line.start(tasks)
        with anyio.move_on_after(2 * self._connect_seconds):
            for one in tried:
                await one.wait()
        for line in lines:
            if not line.up:
                raise StoreFailed(f"cannot reach Redis: {line.down}; {CURE}")

    def close(self) -> None:
        for line in (*self._lines, self.lease_line):
            line.close()

    @property
    def _line(self) -> Line:
        """The connection with the fewest calls, of those that work."""
        return min(self._lines, key=lambda line: (not line.up, line.load))

    # -- calls ------------------------------------------------------------------------------------

    async def ask(self, commands: Sequence[Command]) -> Replies:
        """Send commands that may be made twice, and return their replies. Raise `StoreFailed` if one of them fails.

        They are sent once more if the connection is lost: it may have been of no use for a while.
        """
        replies = await self.answers(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise refused(reply)
        return replies

    async def answers(self, commands: Sequence[Command]) -> Replies:
        """Send commands as `ask` does; errors of the server are among the replies."""
        if not commands:
            return []
        try:
            return await self._line.call(commands, self.seconds)
        except Lost:
            return await self._line.call(commands, self.seconds)

    async def one(self, *command: Any) -> Any:
        """Send one command, and return its reply. Raise `StoreFailed`."""
        [reply] = await self.ask([command])
        return reply

    async def run(
        self,
        script: str,
        arguments: Sequence[Any],
        *,
        before: Sequence[Command] = (),
        undo: Callable[[Any], None] | None = None,
    ) -> Any:
        """Run a script, after commands that are made together with it. Raise `StoreFailed`.

        If the caller goes meanwhile, `undo` gets the answer.
        """
        return await self.scripts.run(self._line, self.seconds, script, arguments, before=before, undo=undo)
