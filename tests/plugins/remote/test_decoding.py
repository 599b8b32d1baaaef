"""Content codings: what is decompressed, a little at a time, and what is refused."""

import gzip
import zlib

import pytest

from nodekit_remote._breaks import Broken
from nodekit_remote._decoding import PIECE_BYTES, Decoder, decoder_for

TEXT = b'{"text": "' + b"x" * 1000 + b'"}'


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


CODED = {
    "gzip": ("gzip", gzip.compress(TEXT)),
    "gzip in two": ("gzip", gzip.compress(TEXT[:500]) + gzip.compress(TEXT[500:])),
    "zlib": ("deflate", zlib.compress(TEXT)),
    "bare deflate": ("deflate", raw_deflate(TEXT)),
}


def decoded(coding: str, pieces: list[bytes]) -> bytes:
    decoder = decoder_for(coding)
    assert decoder is not None
    body = b"".join(part for piece in pieces for part in decoder.decode(piece))
    decoder.end()
    return body


@pytest.mark.parametrize("name", CODED)
def test_a_body_is_the_same_in_one_piece_byte_by_byte_and_cut_anywhere(name: str) -> None:
    coding, data = CODED[name]
    assert decoded(coding, [data]) == TEXT
    assert decoded(coding, [data[at : at + 1] for at in range(len(data))]) == TEXT
    for at in range(len(data)):
        assert decoded(coding, [data[:at], b"", data[at:]]) == TEXT


@pytest.mark.parametrize("name", CODED)
def test_a_body_that_ends_too_early_or_is_damaged_is_refused(name: str) -> None:
    coding, data = CODED[name]
    for at in range(1, len(data)):
        if name == "gzip in two" and data[at:].startswith(b"\x1f\x8b"):
            continue
        with pytest.raises(Broken, match=rf"^the body of the reply is not {coding}, as its Content-Encoding says$"):
            decoded(coding, [data[:at]])
    for more in (b"more", b"\0"):
        with pytest.raises(Broken):
            decoded(coding, [data + more])


def test_no_body_at_all_is_none_that_ends_too_early() -> None:
    assert decoded("gzip", []) == b""


def test_a_bomb_comes_in_small_pieces() -> None:
    size = 10_000_000
    decoder = Decoder("gzip")
    pieces = [len(piece) for piece in decoder.decode(gzip.compress(bytes(size)))]
    assert (sum(pieces), max(pieces)) == (size, PIECE_BYTES)


def test_endless_beginnings_cost_no_more_than_their_bytes() -> None:
    decoder = Decoder("gzip")
    empty = gzip.compress(b"")
    assert list(decoder.decode(empty * 20_000)) == []  # 400 KB; it took minutes to copy the rest for each of them
    assert b"".join(decoder.decode(gzip.compress(b"end"))) == b"end"


@pytest.mark.parametrize("coding", ["", "identity", "utf-8", "IDENTITY, identity", ",", "nonsense"])
def test_what_is_no_coding_leaves_the_body_as_it_is(coding: str) -> None:
    assert decoder_for(coding) is None


@pytest.mark.parametrize("coding", ["gzip", "GZip", "x-gzip", " identity, gzip", "deflate"])
def test_known_codings_have_any_case(coding: str) -> None:
    assert decoder_for(coding) is not None


@pytest.mark.parametrize(
    ("coding", "shown"),
    [("br", "brotli"), ("zstd", "zstandard"), ("gzip, br", "brotli"), ("gzip, gzip", "gzip, gzip"), ("compress",) * 2],
)
def test_other_codings_are_named(coding: str, shown: str) -> None:
    with pytest.raises(Broken, match=f"^the Content-Encoding of the reply, {shown}, is not known here"):
        decoder_for(coding)
