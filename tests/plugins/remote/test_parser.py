"""Replies as bytes: what each is, however it is cut into pieces, and the limits of all that has no end."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

import chance
import pytest

from nodekit_remote._breaks import CUT_BODY, CUT_CHUNK, CUT_HEAD, NO_REPLY, NOT_HTTP, TLS_WITHOUT_HTTPS
from nodekit_remote._parser import LINE_BYTES, MOST_HEADERS, MOST_PIECES, SILENT_BYTES, ReplyParser

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Read:
    """A reply as it was read."""

    status: int
    body: bytes
    error: str
    is_last: bool


def read(pieces: Iterable[bytes]) -> Read:
    """Read a reply that comes in these pieces, after which the connection ends."""
    parser, body = ReplyParser(), b""
    for piece in filter(None, pieces):
        parser.feed(memoryview(piece))
        body += parser.take()
        if parser.is_complete or parser.error is not None:
            break
    parser.end()
    assert parser.is_complete or parser.error is not None
    return Read(parser.status, body, str(parser.error or ""), parser.is_last)


def good(body: bytes, status: int = 200, *, is_last: bool = False) -> Read:
    return Read(status, body, "", is_last)


def invalid(reason: str, status: int = 0, body: bytes = b"") -> Read:
    return Read(status, body, f"the reply is not valid HTTP: {reason}", False)


def cut(reason: str, status: int = 200, body: bytes = b"") -> Read:
    return Read(status, body, reason, False)


REPLIES: dict[str, tuple[bytes, Read]] = {
    "a length": (OK + b"Content-Length: 2\r\n\r\n{}", good(b"{}")),
    "no body": (OK + b"Content-Length: 0\r\n\r\n", good(b"")),
    "chunks": (CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", good(b"{}")),
    "extensions and trailers": (CHUNKED + b'2;a=b;c="d"\r\n{}\r\n0;e\r\nX-Sum: 1\r\n\r\n', good(b"{}")),
    "spaces after the size of a chunk": (CHUNKED + b"2  \r\n{}\r\n0\r\n\r\n", good(b"{}")),
    "up to the end": (OK + b"\r\n{}", good(b"{}", is_last=True)),
    "up to the end, in a coding": (OK + b"Transfer-Encoding: gzip\r\n\r\n{}", good(b"{}", is_last=True)),
    "up to the end, and chunked first": (
        OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n{}",
        good(b"{}", is_last=True),
    ),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\n{}", good(b"{}", is_last=True)),
    "HTTP/1.0 that keeps": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}", good(b"{}")),
    "close": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}", good(b"{}", is_last=True)),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}", good(b"{}")),
    "line feeds alone": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", good(b"{}")),
    "a folded header": (OK + b"X: a\r\n  b\r\nContent-Length: 2\r\n\r\n{}", good(b"{}")),
    "odd bytes": (OK + b"X: \x01\xff\x7f\x00\r\nContent-Length: 2\r\n\r\n{}", good(b"{}")),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", good(b"", 204)),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", good(b"", 304)),
    "interim replies": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\nLink: x\r\n\r\n"
        + OK
        + b"Content-Length: 2\r\n\r\n{}",
        good(b"{}"),
    ),
    "an interim reply alone": (b"HTTP/1.1 100 Continue\r\n\r\n", cut(NO_REPLY, 0)),
    "an upgrade": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        good(b"", 101, is_last=True),
    ),
    "an upgrade that is none": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", good(b"", 101, is_last=True)),
    "the offer of an upgrade": (
        OK + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
        good(b"{}"),
    ),
    "nothing": (b"", cut(NO_REPLY, 0)),
    "half a head": (OK + b"Content-Le", cut(CUT_HEAD, 0)),
    "half a body": (OK + b"Content-Length: 3\r\n\r\n{}", cut(CUT_BODY, body=b"{}")),
    "half a chunk": (CHUNKED + b"3\r\n{}", cut(CUT_CHUNK, body=b"{}")),
    "no last chunk": (CHUNKED + b"2\r\n{}\r\n", cut(CUT_CHUNK, body=b"{}")),
    "half a trailer": (CHUNKED + b"2\r\n{}\r\n0\r\nX-", cut(CUT_CHUNK, body=b"{}")),
    "a bad chunk": (CHUNKED + b"zz\r\n", invalid("Invalid character in chunk size", 200)),
    "a chunk without end": (CHUNKED + b"f" * 30 + b"\r\n", invalid("Chunk size overflow", 200)),
    "a length and chunks": (
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        invalid("Transfer-Encoding can't be present with Content-Length"),
    ),
    "chunks and a length": (
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        invalid("Content-Length can't be present with Transfer-Encoding"),
    ),
    "two lengths": (OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", invalid("Duplicate Content-Length")),
    "a list of lengths": (OK + b"Content-Length: 2, 2\r\n\r\n{}", invalid("Invalid character in Content-Length")),
    "a negative length": (OK + b"Content-Length: -2\r\n\r\n{}", invalid("Invalid character in Content-Length")),
    "a length of no digits": (OK + b"Content-Length:\r\n\r\n{}", invalid("Empty Content-Length")),
    "too long a length": (OK + b"Content-Length: %d\r\n\r\n" % 10**30, invalid("Content-Length overflow")),
    "no name": (OK + b": x\r\n\r\n", invalid("Invalid header token")),
    "a name of two words": (OK + b"X y: a\r\n\r\n", invalid("Invalid header token")),
    "a status of zeros": (b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\n{}", cut(NOT_HTTP, 0)),
    "another protocol": (b"SSH-2.0-x\r\n\r\n", cut(NOT_HTTP, 0)),
    "a request": (b"GET / HTTP/1.1\r\n\r\n", cut(NOT_HTTP, 0)),
    "another version": (b"HTTP/9.9 200 OK\r\n\r\n", cut(NOT_HTTP, 0)),
    "a long status": (b"HTTP/1.1 2000 OK\r\n\r\n", cut(NOT_HTTP, 0)),
    "no number": (b"HTTP/1.1 2x0 OK\r\n\r\n", cut(NOT_HTTP, 0)),
    "an alert of TLS": (b"\x15\x03\x01\x00\x02\x02\x46", cut(TLS_WITHOUT_HTTPS, 0)),
    "too many headers": (
        OK + b"X: y\r\n" * (MOST_HEADERS + 1) + b"\r\n",
        invalid("Too many headers received"),
    ),
    "too long a header": (
        OK + b"X: " + b"y" * (LINE_BYTES + 1) + b"\r\n\r\n",
        cut(f"a line of the reply's head is longer than {LINE_BYTES} bytes", 0),
    ),
    "too many trailers": (
        CHUNKED + b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * (MOST_HEADERS + 1) + b"\r\n",
        invalid("Too many headers received", 200, b"{}"),
    ),
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_is_the_same_in_one_piece_byte_by_byte_and_cut_anywhere(name: str) -> None:
    data, expected = REPLIES[name]
    assert read([data]) == expected
    assert read(data[at : at + 1] for at in range(len(data))) == expected
    for at in range(1, min(len(data), 600)):
        assert read([data[:at], data[at:]]) == expected, data[:at]


def endless(first: bytes, more: bytes) -> Iterable[bytes]:
    yield first
    for _ in range(0, 4 * SILENT_BYTES, len(more)):
        yield more
    pytest.fail("it was read on and on")


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"HTTP/1.1 200 ", b"O"),
        (OK, b"X"),
        (OK + b"X: ", b"y"),
        (OK + b"X: ", b"y" * 4096),
        (OK, b"X-Y: z\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
        (CHUNKED, b"0"),
        (CHUNKED + b"2;", b"a"),
        (CHUNKED + b"2;a=", b"b" * 4096),
        (CHUNKED + b"2\r\n{}\r\n0\r\nX", b"Y"),
        (CHUNKED + b"2\r\n{}\r\n0\r\nX: ", b"y"),
        (CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-Y: z\r\n"),
    ],
)
def test_what_has_no_end_is_not_read_for_long(first: bytes, more: bytes) -> None:
    assert read(endless(first, more)).error.startswith("the reply is not valid HTTP: ")


def test_a_long_body_is_no_silence() -> None:
    body = b"x" * (3 * SILENT_BYTES)
    one_by_one = b"".join(b"1;%b\r\nx\r\n" % (b"e" * 60) for _ in range(SILENT_BYTES // 16))
    assert read([OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)]).body == body
    pieces = [one_by_one[at : at + 65536] for at in range(0, len(one_by_one), 65536)]
    assert read([CHUNKED, *pieces, b"0\r\n\r\n"]) == good(b"x" * (SILENT_BYTES // 16))


def test_small_chunks_take_no_more_memory_than_large_ones() -> None:
    parser = ReplyParser()
    parser.feed(CHUNKED + b"2\r\n{}\r\n" * 10_000)
    assert len(parser.pieces) <= MOST_PIECES + 1
    assert (parser.waiting_bytes, parser.take()) == (20_000, b"{}" * 10_000)


@pytest.mark.parametrize(
    "more", [OK + b"Content-Length: 1\r\n\r\n2", b"H", b"\0" * 1000, b"{}", CHUNKED + b"1\r\n2\r\n0\r\n\r\n"]
)
def test_what_follows_a_reply_is_no_part_of_it(more: bytes) -> None:
    parser = ReplyParser()
    parser.feed(OK + b"Content-Length: 1\r\n\r\n1" + more)
    assert (parser.is_complete, parser.error, parser.take(), parser.has_more) == (True, None, b"1", True)


def test_a_parser_reads_one_reply_after_another() -> None:
    parser = ReplyParser()
    for number in range(3):
        parser.begin()
        parser.feed(OK + b"Content-Type: a/%d\r\nContent-Length: 1\r\n\r\n%d" % (number, number))
        assert (parser.is_complete, parser.has_more, parser.take()) == (True, False, b"%d" % number)
        assert parser.header(b"content-type") == f"a/{number}"
    parser.begin()
    assert (parser.status, parser.length, parser.header(b"content-type")) == (0, None, None)


def test_of_headers_that_come_twice_the_first_one_counts_unless_they_are_lists() -> None:
    parser = ReplyParser()
    parser.feed(OK + b"Location: /a\r\nLOCATION: /b\r\nContent-Encoding: gzip\r\ncontent-encoding: br\r\n")
    parser.feed(b"Content-Type: \xe9\xc3\xa9\r\n\r\n")
    assert parser.header(b"location") == "/a"
    assert parser.header(b"content-encoding") == "gzip, br"
    assert parser.header(b"content-type") == "\udce9é"


def test_the_log_has_the_beginning_of_what_cannot_be_read() -> None:
    parser = ReplyParser()
    parser.feed(b"SSH-2.0-OpenSSH\r\n" + b"x" * 10_000)
    assert parser.error is not None
    assert "SSH-2.0-OpenSSH" in parser.error.detail
    assert len(parser.error.detail) < 1000


def test_no_bytes_do_more_than_end_a_reply() -> None:
    draw = random.Random(chance.SEED)
    known = [data for data, _ in REPLIES.values() if len(data) < 300]
    for _ in range(chance.each_run(3000, 100_000)):
        data = bytearray(draw.choice(known) + draw.choice([b"", *known]))
        for _ in range(draw.randrange(4)):
            at = draw.randrange(len(data) + 1)
            match draw.randrange(3):
                case 0:
                    data[at : at + 1] = bytes([draw.randrange(256)])
                case 1:
                    del data[at : at + draw.randrange(1, 9)]
                case _:
                    data[at:at] = draw.choice([b"\r\n", b"0", b":", b",", b" ", b"\0", b"chunked", b"9" * 20])
        cuts = sorted(draw.randrange(len(data) + 1) for _ in range(draw.randrange(4)))
        pieces = [bytes(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        whole, in_pieces = read([bytes(data)]), read(pieces)
        if not whole.error:  # where it fails may depend on what follows a reply that is the last one
            assert (in_pieces.status, in_pieces.body) == (whole.status, whole.body), bytes(data)
