"""The decompression of bodies, a little at a time: a small body may unpack to a gigabyte. No I/O."""

import zlib
from collections.abc import Iterator

from nodekit_remote._breaks import Broken

PIECE_BYTES = 64 * 1024
"""Maximum size of a decompressed piece."""

SLICE_BYTES = 8 * 1024
"""Size of the parts in which it is unpacked. What is left over of a part is copied again and again."""

_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15
_NAMES = {"x-gzip": "gzip"}
_UNKNOWN = {"br": "brotli", "zstd": "zstandard", "x-compress": "compress"} | {
    name: name for name in ("aes128gcm", "bzip2", "compress", "dcb", "dcz", "exi", "lz4", "lzma", "snappy", "xz")
}
"""Codings that are not decoded, by the names of HTTP."""
_CURE = "let the container send it as it is, or in gzip or deflate"


class Undecodable(Broken):
    """A body is in a coding that is not decoded here, or not in that which its head names. `str` has the cure."""


class Decoder:
    """The content coding of one body: ``gzip`` or ``deflate``."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._not_coded = f"the body of the reply is not {coding}, as its Content-Encoding says"
        self._inflate = zlib.decompressobj(_GZIP_BITS) if coding == "gzip" else None
        self._has_begun = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what some bytes unpack to, at most `PIECE_BYTES` at a time. Raise `Undecodable`."""
        for at in range(0, len(data), SLICE_BYTES):
            yield from self._decode(data[at : at + SLICE_BYTES])

    def _decode(self, piece: bytes) -> Iterator[bytes]:
        if self._inflate is None:  # RFC 9110 says zlib; some programs send its contents alone
            self._inflate = zlib.decompressobj(_ZLIB_BITS if piece[0] & 0x0F == zlib.DEFLATED else _RAW_BITS)
        self._has_begun = True
        while True:
            if self._inflate.eof and piece:  # files in this format may follow one another
                if self._coding != "gzip":
                    raise Undecodable(f"{self._not_coded}; {_CURE}")
                self._inflate = zlib.decompressobj(_GZIP_BITS)
            try:
                unpacked = self._inflate.decompress(piece, PIECE_BYTES)
            except zlib.error as error:
                raise Undecodable(f"{self._not_coded}; {_CURE}") from error
            piece = self._inflate.unconsumed_tail or self._inflate.unused_data
            if unpacked:
                yield unpacked
            elif not piece:
                return  # it has read all, and keeps no output back

    def end(self) -> None:
        """Raise `Broken` if the body ended too early."""
        if self._has_begun and self._inflate is not None and not self._inflate.eof:
            raise Broken(self._not_coded)


def decoder_for(content_encoding: str) -> Decoder | None:
    """Return the decoder for a body, or None if it needs none. Raise `Undecodable` if its coding is not known here.

    Names that are no content codings are ignored: some programs send a charset there.
    """
    names = [name for part in content_encoding.split(",") if (name := part.strip().lower())]
    codings = [_NAMES.get(name, name) for name in names]
    known = [coding for coding in codings if coding in ("gzip", "deflate")]
    unknown = [_UNKNOWN[coding] for coding in codings if coding in _UNKNOWN]
    if len(known) == 1 and not unknown:
        return Decoder(known[0])
    if known or unknown:
        shown = ", ".join(unknown or known)
        raise Undecodable(f"the Content-Encoding of the reply, {shown}, is not known here; {_CURE}")
    return None
