"""The text of a key: ``nk_<id>_<secret>``, and what is kept of it.

The secret is 32 random bytes, so one round of SHA-256 keeps it out of the file: nobody can try 2**256 of them. A slow
hash is for passwords, which people choose; here it would only let strangers use up the node's CPU. The id salts the
hash, so that it is of use for this key alone.
"""

import re
from hashlib import sha256
from secrets import token_bytes
from zlib import crc32

import msgspec

PREFIX = "nk_"
ID_LENGTH = 12
SECRET_BYTES = 32
_SECRET_LENGTH = 43
"""Base-62 digits of `SECRET_BYTES`."""
_CHECK_LENGTH = 6
LENGTH = len(PREFIX) + ID_LENGTH + 1 + _SECRET_LENGTH + _CHECK_LENGTH

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TEXT = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{ID_LENGTH}}})_([0-9A-Za-z]{{{_SECRET_LENGTH + _CHECK_LENGTH}}})")


class Presented(msgspec.Struct, frozen=True, gc=False):
    """A text that has the form of a key.

    - `digest`: Hash of its secret, as the file has it.
    """

    id: str
    digest: str


def new_id() -> str:
    """Return a random id. It is no secret: it tells keys apart, also in the log."""
    return _base62(int.from_bytes(token_bytes(16)), ID_LENGTH)


def new_text(id: str) -> str:
    """Return a new key of this id, with the checksum by which people and scanners recognise one."""
    body = f"{PREFIX}{id}_{_base62(int.from_bytes(token_bytes(SECRET_BYTES)), _SECRET_LENGTH)}"
    return body + _check(body)


def parse(text: str) -> Presented | None:
    """Read a key. Return None if the text is none, or was changed on the way."""
    if len(text) != LENGTH or (found := _TEXT.fullmatch(text)) is None:
        return None
    body = text[:-_CHECK_LENGTH]
    if text[-_CHECK_LENGTH:] != _check(body):
        return None
    return Presented(found[1], digest_of(text))


def digest_of(text: str) -> str:
    """Return what is kept of a key: a hash of its secret, salted with its id."""
    return sha256(text.encode()).hexdigest()


def _check(body: str) -> str:
    return _base62(crc32(body.encode()), _CHECK_LENGTH)


def _base62(number: int, length: int) -> str:
    digits: list[str] = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
