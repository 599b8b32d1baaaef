"""What is kept of an answer that came piece by piece: as much as there is room for, and a word about the rest."""

import codecs
from base64 import b64encode
from typing import Any

import msgspec

from nodekit.payload import encode_payload

MOST_KEPT_BYTES = 1 << 20


class StreamRecord:
    """Gathers the pieces of a stream, which passes at its full length whatever is kept.

    Of a stream of UTF-8 `output` is ``{"output": text}``. Of more than `most_bytes`, the beginning is kept and
    ``"truncated": true, "bytes": <all there were>`` is added; what is not UTF-8 is kept in base64, which
    ``"encoding": "base64"`` says.
    """

    def __init__(self, most_bytes: int = MOST_KEPT_BYTES) -> None:
        self._left = most_bytes
        self._kept: list[bytes] = []
        self.bytes = 0
        """How many there were."""

    def add(self, piece: bytes) -> None:
        self.bytes += len(piece)
        if self._left > 0:
            self._kept.append(piece if len(piece) <= self._left else piece[: self._left])
            self._left -= len(self._kept[-1])

    def output(self) -> msgspec.Raw:
        """What a job's result has of it."""
        kept = b"".join(self._kept)
        cut = len(kept) < self.bytes
        told: dict[str, Any] = {}
        try:
            told["output"] = codecs.getincrementaldecoder("utf-8")().decode(kept, final=not cut)
        except UnicodeDecodeError:
            told = {"output": b64encode(kept).decode(), "encoding": "base64"}
        if cut:
            told |= {"truncated": True, "bytes": self.bytes}
        return encode_payload(told)
