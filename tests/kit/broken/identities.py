"""Plugins that identify callers and break a promise each. `tests/kit/test_caught.py` runs the suite on them."""

import time
from collections.abc import Sequence
from itertools import count

import pytest

from nodekit import Connection, Identity, NodekitError, Unauthorized
from nodekit.testing import IdentityContract, make_connection

TOKENS = {"Bearer one": "alice"}


class Sound:
    async def nodekit_identify(self, connection: Connection) -> Identity | None:
        client = TOKENS.get(connection.headers.get("authorization", ""))
        if client is None:
            raise Unauthorized("a token is needed")
        return Identity(client=client)


class CountsCallers(Sound):
    def __init__(self) -> None:
        self.numbers = count()

    async def nodekit_identify(self, connection: Connection) -> Identity | None:
        await super().nodekit_identify(connection)
        return Identity(client=f"caller {next(self.numbers)}")


class LetsAnybodyIn(Sound):
    async def nodekit_identify(self, connection: Connection) -> Identity | None:
        return Identity(client=TOKENS.get(connection.headers.get("authorization", ""), "anybody"))


class GivesNoReason(Sound):
    async def nodekit_identify(self, connection: Connection) -> Identity | None:
        try:
            return await super().nodekit_identify(connection)
        except Unauthorized:
            raise Unauthorized("") from None


class NeedsTwoWords(Sound):
    async def nodekit_identify(self, connection: Connection) -> Identity | None:
        _, _ = connection.headers.get("authorization", "no token").split(" ")
        return await super().nodekit_identify(connection)


class RaisesAnother(Sound):
    async def nodekit_identify(self, connection: Connection) -> Identity | None:
        try:
            return await super().nodekit_identify(connection)
        except Unauthorized as error:
            raise NodekitError("unknown") from error


class LocksOut(Sound):
    """Turns everybody away after a few wrong tokens."""

    wrong = 0

    async def nodekit_identify(self, connection: Connection) -> Identity | None:
        try:
            if self.wrong < 10:
                return await super().nodekit_identify(connection)
        except Unauthorized:
            self.wrong += 1
            raise
        raise Unauthorized("too many wrong tokens")


class ReadsItsTokensInTheLoop(Sound):
    read = False

    async def nodekit_identify(self, connection: Connection) -> Identity | None:
        if not self.read:
            time.sleep(1)
            self.read = True
        return await super().nodekit_identify(connection)


class Suite(IdentityContract):
    subject: type[Sound]

    @pytest.fixture
    def plugin(self) -> Sound:
        return self.subject()

    def known(self) -> Sequence[Connection]:
        return [make_connection(authorization="Bearer one")]

    def unknown(self) -> Sequence[Connection]:
        return [make_connection(), make_connection(authorization="Bearer two")]


HURRIED: dict[str, float] = {}
