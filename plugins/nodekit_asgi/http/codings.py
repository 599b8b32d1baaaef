"""Bodies that are compressed on their way."""

import zlib
from collections.abc import AsyncIterator

ACCEPTED = "gzip"
_GZIP_BITS = 31
"""The largest window, with the header and the checksum of gzip."""
_PIECE_BYTES = 1 << 16


def is_gzip(codings: str) -> bool:
    """Return False for a body that is not compressed. Raise `ValueError` for any other coding than gzip."""
    names = [name for coding in codings.split(",") if (name := coding.strip().lower()) not in ("", "identity")]
    if names and (len(names) > 1 or names[0] not in ("gzip", "x-gzip")):
        raise ValueError(codings)
    return bool(names)


async def gunzipped(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the bytes of a body in gzip, in small pieces: who counts them can stop long before they fill the memory.

    Raise `ValueError` if it is damaged or ends early. Nothing at all is an empty body.
    """
    stream, begun = zlib.decompressobj(_GZIP_BITS), False
    async for piece in pieces:
        while piece:
            if stream.eof:  # a body may have several parts
                stream = zlib.decompressobj(_GZIP_BITS)
            begun = True
            try:
                yield stream.decompress(piece, _PIECE_BYTES)
            except zlib.error as error:
                raise ValueError(str(error)) from error
            piece = stream.unused_data if stream.eof else stream.unconsumed_tail  # noqa: PLW2901
    if begun and not stream.eof:
        raise ValueError("it ends early")
