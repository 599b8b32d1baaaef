"""The keys of a node in memory: who presents a valid one."""

import hmac
from base64 import b64decode
from collections.abc import Iterable, Mapping

import msgspec

from nodekit import Connection, Unauthorized
from nodekit_apikeys._key import Key
from nodekit_apikeys._text import LENGTH, PREFIX, parse

LONGEST_BASIC = 4 * LENGTH
"""Characters of credentials of the scheme Basic that may hold a key: there is room for a name beside it."""
_NOBODY = ("0" * 64,)
"""Digest that an unknown key is compared with, which no key has: it takes the way of a known one."""


class NoKey(Unauthorized):
    """The caller presented no valid key.

    `guessed` is True if the secret is unknown here, as that of somebody who tries keys. `ended` names a key that was
    valid once.
    """

    def __init__(self, reason: str, *, guessed: bool = False, ended: str = "") -> None:
        super().__init__(reason, challenge='Bearer realm="nodekit"')
        self.guessed = guessed
        self.ended = ended


class Keyring(msgspec.Struct, frozen=True):
    """All keys, also those that are not valid any more."""

    by_id: Mapping[str, Key]
    by_name: Mapping[str, Key]

    @classmethod
    def of(cls, keys: Iterable[Key]) -> "Keyring":
        by_id = {key.id: key for key in keys}
        return cls(by_id, {key.name: key for key in by_id.values()})

    def find(self, text: str, now: float) -> Key:
        """Return the key of this text. Raise `NoKey`.

        The id, which is no secret, finds the key. Then whole hashes are compared, in a time that does not depend on
        them, so that nothing is learnt of a secret by its beginning.
        """
        presented = parse(text)
        if presented is None:
            raise NoKey("this is no key, or it was changed on the way; expected nk_…", guessed=True)
        key = self.by_id.get(presented.id)
        digests = tuple(secret.digest for secret in key.secrets) if key else _NOBODY
        mine = presented.digest.encode()  # bytes: comparing texts fails for what a file may hold beside ASCII
        matches = [hmac.compare_digest(mine, digest.encode()) for digest in digests or _NOBODY]
        if key is None or not any(matches):
            raise NoKey("this key is not known", guessed=True)
        secret = key.secrets[matches.index(True)]
        state = key.state(now)
        if state == "valid" and secret.expires is not None and now >= secret.expires:
            state = "expired"
        if state != "valid":
            reason = "this key has been revoked" if state == "revoked" else "this key has expired"
            raise NoKey(reason, ended=key.name)
        return key


def presented_text(connection: Connection) -> str | None:
    """Return the key that a caller presents. Return None if there is none. Raise `NoKey` for anything else."""
    authorization, own = connection.headers.get("authorization"), connection.headers.get("x-api-key")
    if authorization is None:
        return own if own is None else own.strip()
    scheme, _, token = authorization.partition(" ")
    text = token.strip() if scheme.lower() == "bearer" else _password(scheme, token)
    if text is None and own is not None:
        return own.strip()  # the other header is meant for a proxy
    if text is None:
        raise NoKey("a key is needed: Authorization: Bearer nk_…")
    if own is not None and own.strip() != text:
        raise NoKey("Authorization and X-API-Key differ; send one of them")
    return text


def _password(scheme: str, token: str) -> str | None:
    """Return the key that is the password of a URL, for clients that can set no header. Return None without one."""
    if scheme.lower() != "basic" or len(token) > LONGEST_BASIC:
        return None
    try:
        password = b64decode(token.strip(), validate=True).partition(b":")[2].decode("ascii")
    except ValueError:
        return None
    return password if password.startswith(PREFIX) else None
