"""The scripts that run in the server, by name, and how they are called.

A script is known by the digest of its text. Nodes of two releases on one server therefore each run their own.
"""

import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

from nodekit_redis._address import Command
from nodekit_redis._errors import refused
from nodekit_redis._line import Line

SCHEMA = 1
"""Version of keys and fields. Nodes with another schema refuse to start on the same prefix."""
GROWING = {"add", "records"}
"""Scripts that are refused when the memory is full. The others end jobs, or keep them running."""
READING = {"scan"}

_HEAD = "#!lua{flags}\nlocal SCHEMA = {schema}\n"


def _text(name: str) -> bytes:
    flags = "" if name in GROWING else " flags=no-writes" if name in READING else " flags=allow-oom"
    lua = files("nodekit_redis") / "lua"
    common, own = ((lua / f"{part}.lua").read_text("utf-8") for part in ("common", name))
    return "\n".join((_HEAD.format(flags=flags, schema=SCHEMA), common, own)).encode()


class Scripts:
    """The scripts for the keys of a prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = "{" + prefix + "}:"
        self._texts: dict[str, bytes] = {}

    def key(self, name: str) -> str:
        return self.prefix + name

    def text(self, name: str) -> bytes:
        if name not in self._texts:
            self._texts[name] = _text(name)
        return self._texts[name]

    def command(self, name: str, arguments: Sequence[Any]) -> Command:
        digest = hashlib.sha1(self.text(name), usedforsecurity=False).hexdigest()
        return ("EVALSHA_RO" if name in READING else "EVALSHA", digest, 1, self.prefix, *arguments)

    async def run(
        self,
        line: Line,
        seconds: float,
        name: str,
        arguments: Sequence[Any],
        *,
        before: Sequence[Command] = (),
        undo: Callable[[Any], None] | None = None,
    ) -> Any:
        """Run a script, after commands that are made together with it or not at all. Raise `StoreFailed`."""
        script = self.command(name, arguments)
        commands: Sequence[Command] = (("MULTI",), *before, script, ("EXEC",)) if before else (script,)

        def undone(replies: list[Any]) -> None:
            answer = _answer(replies, in_transaction=bool(before))
            if undo is not None and not isinstance(answer, Exception):
                undo(answer)

        while True:
            replies = await line.call(commands, seconds, undone)
            answer = _answer(replies, in_transaction=bool(before))
            if isinstance(answer, NoScriptError):
                [loaded] = await line.call([("SCRIPT", "LOAD", self.text(name))], seconds)
                if isinstance(loaded, Exception):
                    raise refused(loaded)
                continue
            if isinstance(answer, Exception):
                raise refused(answer)
            return answer


def _answer(replies: list[Any], *, in_transaction: bool) -> Any:
    """Return the answer of the script, or the first error."""
    if not in_transaction:
        return replies[0]
    for error in replies:
        if isinstance(error, Exception):  # a command was refused, and with it the transaction
            return error
    for answer in replies[-1]:
        if isinstance(answer, Exception):
            return answer
    return replies[-1][-1]
