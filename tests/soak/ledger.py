"""Everything that a node has promised: accepted jobs, and what has to become of them."""

import time
from collections import Counter
from typing import Any

import msgspec


class Expected(msgspec.Struct):
    """The end that a job may have.

    - `n`, `pad`: The number that comes out, and the length of the text; a job that succeeds has these. None: anything.
    - `may_fail`: True if it meets a fault on purpose, or is cancelled.
    - `is_stream`: True if its output is the text of a stream.
    """

    n: int | None = None
    pad: int = 0
    may_fail: bool = False
    is_stream: bool = False
    seen_at: float = msgspec.field(default_factory=time.monotonic)

    def contradiction(self, result: Any) -> str:
        """Return what is wrong with a final result, or an empty text."""
        if result["status"] == "failed":
            error = str(result["result"].get("error", ""))
            return "" if self.may_fail else f"failed: {error[:200]}"
        output = result["result"]["output"]
        if self.n is None and not self.is_stream:
            return ""
        if self.is_stream:
            return "" if output.get("output", "").strip("x") == "" else "the text of the stream is not what was sent"
        found = (output.get("n"), len(output.get("pad", "")))
        return "" if found == (self.n, self.pad) else f"{found} instead of {(self.n, self.pad)}"


class Ledger:
    """The jobs of all clients, and what was found to be wrong."""

    def __init__(self, keep_seconds: float) -> None:
        self._keep_seconds = keep_seconds
        self.accepted = 0
        self.ended: Counter[str] = Counter()
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self.unseen = 0
        """Number of jobs that the node may have deleted before they were looked at, because this machine is busy."""

    def settle(self, id: str, expected: Expected, result: Any) -> None:
        """Enter the end of a job."""
        self.ended[result["status"]] += 1
        if contradiction := expected.contradiction(result):
            self.wrong.append(f"{id}: {contradiction}")

    def miss(self, id: str, expected: Expected) -> None:
        """Enter a job that the node does not know, although it was accepted."""
        if time.monotonic() - expected.seen_at < 0.7 * self._keep_seconds:
            self.lost.append(id)
        else:
            self.unseen += 1
