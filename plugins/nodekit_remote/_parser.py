"""The reading of one reply after another from the bytes of a connection. It does no I/O.

llhttp, as httptools has it, finds the parts of a reply. It accepts heads without end, and does not know which reply was
asked for. `ReplyParser` adds the limits, and tells replies from what nobody has asked for.
"""

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from nodekit_remote._breaks import CUT_BODY, CUT_CHUNK, CUT_HEAD, NO_REPLY, TOO_LONG_LINE, Broken, cause_of, unreadable

LINE_BYTES = 8190
"""Maximum length of the name of a header, and of its value."""
MOST_HEADERS = 128
"""Maximum number of headers and trailers of a reply."""
SILENT_BYTES = 64 * 1024
"""Maximum number of bytes between two pieces of a body: the head, trailers, extensions of chunks."""
MOST_PIECES = 256
"""Maximum number of pieces that wait. An object takes more memory than the few bytes of a small chunk."""
SHOWN_BYTES = 100
"""Maximum size of the part of a reply that cannot be read in the log."""

_SWITCHING_PROTOCOLS = 101
_KEPT = frozenset(
    (b"content-type", b"location", b"retry-after", b"content-encoding", b"content-length", b"transfer-encoding")
)
_LISTS = (b"content-encoding", b"transfer-encoding")
"""Headers of which several are one list. Of the others, the first one counts."""


class ReplyParser:
    """The reply that is being read. `begin` forgets it and expects the next one.

    After an error, or after a reply that `is_last`, nothing more can be read.
    """

    def __init__(self) -> None:
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(  # containers are small programs, and some of them get these wrong
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self.begin()

    def begin(self) -> None:
        """Expect a reply."""
        self.status = 0
        self.has_head = False
        """True once the head has come. Interim replies (1xx) do not count."""
        self.is_complete = False
        self.is_last = False
        """True if the connection ends with this reply."""
        self.has_more = False
        """True if bytes came after the end of the reply."""
        self.error: Broken | None = None
        """The reason why the rest of the reply cannot be read."""
        self.pieces: list[bytes] = []
        """Parts of the body that nobody has taken yet, as they were sent: not decompressed."""
        self.waiting_bytes = 0
        """Total size of `pieces`."""
        self.length: int | None = None
        """Size of the body as announced."""
        self._fields: dict[bytes, bytes] = {}
        self._headers = self._silent = 0
        self._is_interim = False
        self.has_begun = False
        """True once the first byte of the reply has come. Interim replies do not count."""
        self._is_over = False
        """True once the reply is complete, or cannot be read: what comes now is no part of it."""

    def header(self, name: bytes) -> str | None:
        """Return the value of one of the headers that are kept, by its name in lower case."""
        value = self._fields.get(name)
        return None if value is None else value.decode("utf-8", "surrogateescape")

    def take(self) -> bytes:
        """Return the part of the body that has come, and forget it."""
        pieces, self.pieces, self.waiting_bytes = self.pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def feed(self, data: bytes | memoryview) -> None:
        """Read bytes. Set `error` if they are no part of a reply."""
        if self.error is not None or self._parser is None:
            return
        self._silent += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self.is_last = True
        except HttpParserError as error:
            self._fail_to_parse(str(error), data)
        if self._silent > SILENT_BYTES and not self._is_over:
            what = "between two pieces of the body" if self.has_head else "in the head"
            self._fail(unreadable(f"More than {SILENT_BYTES} bytes {what}", b""))

    def end(self, error: Exception | None = None) -> None:
        """Read the end of the connection: the end of a reply without a length, or an error."""
        if self._is_over:
            return
        if self.has_head and self.length is None and not self._is_chunked:
            if error is None:
                self._is_over = self.is_complete = self.is_last = True
                return
        elif self.has_head:
            error = Broken(CUT_CHUNK if self._is_chunked else CUT_BODY)
        elif error is None:
            error = Broken(CUT_HEAD if self.has_begun else NO_REPLY)
        self._fail(error if isinstance(error, Broken) else Broken(cause_of(error)))

    def close(self) -> None:
        """Free the parser, which refers to this object. What was read stays."""
        self._parser = None

    @property
    def _is_chunked(self) -> bool:
        return self._fields.get(b"transfer-encoding", b"").rpartition(b",")[2].strip().lower() == b"chunked"

    def _fail_to_parse(self, reason: str, data: bytes | memoryview) -> None:
        if self.is_complete and self.status == _SWITCHING_PROTOCOLS:
            self.is_last = True  # to none that anybody has asked for
        elif self.is_complete and not self.is_last:
            self.has_more = True
        elif self.error is None:
            self._fail(unreadable(reason, bytes(data[:SHOWN_BYTES])))

    def _fail(self, error: Broken) -> None:
        self.error = error
        self._is_over = True

    # -- called by the parser

    def on_message_begin(self) -> None:
        self.has_begun = True
        if self.is_complete:
            self.has_more = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_over:
            return
        self._headers += 1
        if self._headers > MOST_HEADERS:
            self._fail(unreadable("Too many headers received", b""))
        elif len(name) > LINE_BYTES or len(value) > LINE_BYTES:
            self._fail(Broken(TOO_LONG_LINE.format(LINE_BYTES)))
        elif not self.has_head and (name := name.lower()) in _KEPT:
            earlier = self._fields.get(name)
            if earlier is None:
                self._fields[name] = value
            elif name in _LISTS:
                self._fields[name] = b"%b, %b" % (earlier, value)

    def on_headers_complete(self) -> None:
        if self._is_over or self._parser is None:
            return
        status = self._parser.get_status_code()
        if status < 200 and status != _SWITCHING_PROTOCOLS:
            if status < 100:
                self._fail(unreadable("Invalid status code", b""))
            self._is_interim = True
            self._fields.clear()
            self._headers = 0
            return
        self.status, self.has_head, self._silent = status, True, 0
        if (length := self._fields.get(b"content-length")) is not None:
            self.length = int(length)

    def on_body(self, piece: bytes) -> None:
        if not self._is_over:
            self._silent = 0
            if len(self.pieces) >= MOST_PIECES:
                self.pieces = [b"".join(self.pieces)]
            self.pieces.append(piece)
            self.waiting_bytes += len(piece)

    def on_message_complete(self) -> None:
        if self._is_interim:
            self._is_interim = self.has_begun = False
        elif not self._is_over and self._parser is not None:
            self._is_over = self.is_complete = True
            self.is_last = not self._parser.should_keep_alive()
