"""Text that others wrote, made fit for terminals and logs: no character of it commands the reader's terminal."""

import codecs
from collections.abc import Callable, Iterable, Iterator

DECODING = "backslashreplace"
"""Treatment of bytes that are not UTF-8: each is shown as ``\\x9b``."""


def printable(text: str, *, keep: str = "\t") -> str:
    """Return the text with an escape (``\\x1b``, ``\\u202e``) in place of each character that is not shown as itself.

    These are control characters (ESC, CR and those of C1 among them), separators of lines and paragraphs, marks of
    direction and other formats, spaces but the usual one, halves of surrogate pairs, and characters that Unicode does
    not define: all that `str.isprintable` names. Those in `keep` stay. A backslash stays, so that doing it twice
    changes nothing.
    """
    return _escaped(text, keep, _escape)


def printable_lines(text: str) -> str:
    """Return the text as `printable` does, with its newlines."""
    return _escaped(text, "\t\n", _escape)


def printable_pieces(pieces: Iterable[bytes]) -> Iterator[str]:
    """Decode UTF-8 that arrives in pieces, cut anywhere, and yield it as `printable_lines` does."""
    decoder = codecs.getincrementaldecoder("utf-8")(DECODING)
    for piece in pieces:
        yield printable_lines(decoder.decode(piece))
    yield printable_lines(decoder.decode(b"", final=True))


def printable_json(document: bytes) -> str:
    """Return equivalent JSON: only in strings may it hold such characters, and there ``\\u009b`` is the same.

    A CR, which is a space between values, becomes one.
    """
    return _escaped(document.decode(errors=DECODING).replace("\r", " "), "\t\n", _escape_of_json)


def _escaped(text: str, keep: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    escapes = {ord(letter): escape(letter) for letter in set(text) if not letter.isprintable() and letter not in keep}
    return text.translate(escapes) if escapes else text


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def _escape_of_json(letter: str) -> str:
    data = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[at : at + 2].hex()}" for at in range(0, len(data), 2))
