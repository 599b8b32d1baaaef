"""The keys of a node in a file, which it follows."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from nodekit import Node
from nodekit_apikeys._file import KeyFileProblem, Signature, read_keys, signature_of
from nodekit_apikeys._keyring import Keyring
from nodekit_apikeys._last_use import UsedFile

AGAIN_SECONDS = 5.0
"""Pause until a broken file is read again that has not changed: its disk may have failed for a moment."""

T = TypeVar("T")


class KeyFile:
    """A file of keys (`KeySource`). One that is broken, or gone, leaves the last good keys."""

    look_seconds = 0.25

    def __init__(self, path: Path) -> None:
        self.keys = Keyring.of(())
        self._path, self._used = path, UsedFile(path)
        self._signature: Signature | None = None
        self._problem: str | None = None
        self._broken: Signature | None = None
        """Signature of a file that could not be read, which is not read again until `_again_at`."""
        self._again_at = 0.0

    @property
    def without_keys(self) -> str | None:
        if self._signature is not None:
            return None
        return f"there is no file of keys at {self._path}; make it: nodekit keys create FILE --name NAME"

    async def begin(self, node: Node) -> None:
        self._monotonic, self._thread = node.clock.monotonic, anyio.CapacityLimiter(1)
        await self._read()

    async def look(self) -> str | None:
        try:
            self._problem = await self._look()
        except KeyFileProblem as error:
            self._problem = f"{error}; the keys are those from before"
        except (RuntimeError, MemoryError) as error:  # no thread can be started: that must not end the node
            name = type(error).__name__
            self._problem = f"{self._path} cannot be followed ({name}); the keys are those from before"
        return self._problem

    async def _look(self) -> str | None:
        signature = await self._in_thread(partial(signature_of, self._path))
        if signature == self._signature:
            return None
        if signature is None:
            return f"{self._path} is gone; the keys are those from before"
        if signature == self._broken and self._monotonic() < self._again_at:
            return self._problem
        self._broken, self._again_at = signature, self._monotonic() + AGAIN_SECONDS
        await self._read()
        return None

    async def _read(self) -> None:
        self.keys, self._signature = await self._in_thread(partial(_read, self._path))
        self._broken = None

    async def write_used(self, times: Mapping[str, float]) -> None:
        with suppress(RuntimeError, MemoryError):  # as in `look`; these times are lost
            await self._in_thread(partial(self._used.write, times, self.keys.by_id))

    def for_anybody(self, problem: str) -> str:
        return problem.replace(str(self._path), self._path.name)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        """Call a function in a thread that waits for no other work. A folder that hangs does not keep the node."""
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=self._thread)


def _read(path: Path) -> tuple[Keyring, Signature | None]:
    keys, signature = read_keys(path)
    return Keyring.of(keys), signature
