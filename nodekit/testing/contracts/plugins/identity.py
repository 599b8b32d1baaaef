"""Promises of a plugin that says who sends a request: `nodekit_identify`."""

from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from nodekit import Connection, Forbidden, Identity, Node, Unauthorized
from nodekit.testing.builders.connections import make_connection
from nodekit.testing.contracts.plugins.plugin import PluginContract, call_hook
from nodekit.testing.leaks.detectors import unblocked_loop

_ODD_VALUES = (
    *("", " ", "Bearer", "Bearer ", "bearer x", "Bearer  two  spaces", "Basic", "Basic !", "Basic OjpYOg==", "é" * 100),
    *("\x00", "x" * 100_000, "Bearer x, Bearer y", 'Digest username="a"', "Bearer nk_1_" + "0" * 1000),
)


class IdentityContract(PluginContract):
    """Suite of a plugin that implements `nodekit_identify`. Define the fixture `plugin`, `known` and `unknown`."""

    def known(self) -> Sequence[Connection]:
        """Return connections of callers that the plugin identifies, by `make_connection`."""
        return []

    def unknown(self) -> Sequence[Connection]:
        """Return connections of callers that it turns away."""
        return []

    async def ask(self, plugin: Any, connection: Connection, node: Node) -> Identity | Exception | None:
        """Ask the plugin as a node does. Return its answer, or what it raised."""
        try:
            identity: Identity | None = await call_hook(plugin.nodekit_identify, connection=connection, node=node)
        except Exception as error:
            return error
        return identity

    async def test_known_callers_get_their_identity_again_and_again(self, plugin: Any) -> None:
        if not self.known():
            pytest.skip("return from `known` connections that it identifies")
        async with self.running(plugin) as node:
            for connection in self.known():
                first, second = [await self.ask(plugin, connection, node) for _ in range(2)]
                assert isinstance(first, Identity), f"{connection} is not known: {first!r}"
                assert first == second
                assert first.client, "an identity has a client"

    async def test_unknown_callers_are_turned_away_with_a_reason(self, plugin: Any) -> None:
        if not self.unknown():
            pytest.skip("return from `unknown` connections that it turns away")
        async with self.running(plugin) as node:
            for connection in self.unknown():
                answer = await self.ask(plugin, connection, node)
                assert isinstance(answer, Unauthorized | Forbidden), f"{connection} is let in as {answer!r}"
                _check_reason(answer)

    async def test_whatever_a_caller_sends_it_is_known_or_turned_away(self, plugin: Any) -> None:
        async with self.running(plugin) as node:
            for connection in self._odd():
                answer = await self.ask(plugin, connection, node)
                if isinstance(answer, Unauthorized | Forbidden):
                    _check_reason(answer)
                else:
                    assert answer is None or isinstance(answer, Identity), (
                        f"it answered {answer!r}; expected an Identity, None, Unauthorized or Forbidden"
                    )

    async def test_what_a_caller_sends_in_vain_changes_no_answer(self, plugin: Any) -> None:
        async with self.running(plugin) as node:
            asked = [*self.known(), *self.unknown()]
            before = [repr(await self.ask(plugin, connection, node)) for connection in asked]
            for connection in self._odd():
                await self.ask(plugin, connection, node)
            for connection in asked:
                with anyio.move_on_after(0):
                    await self.ask(plugin, connection, node)
            assert [repr(await self.ask(plugin, connection, node)) for connection in asked] == before

    async def test_asking_who_it_is_does_not_block(self, plugin: Any) -> None:
        async with self.running(plugin) as node, unblocked_loop():
            for connection in [*self.known(), *self.unknown(), *self._odd()]:
                await self.ask(plugin, connection, node)
                await anyio.lowlevel.checkpoint()

    def _odd(self) -> Iterator[Connection]:
        plain = make_connection()
        yield plain
        for value in _ODD_VALUES:
            yield replace(plain, headers={"authorization": value, "cookie": value, "x-api-key": value})
        for connection in self.known():
            for name, value in connection.headers.items():
                for odd in (value[:-1], f"{value} ", value.swapcase(), f"{value}x", value * 100):
                    yield replace(connection, headers={**connection.headers, name: odd})
        yield replace(plain, client="unix", address=None, secure=True, operation="")


def _check_reason(refused: Unauthorized | Forbidden) -> None:
    assert refused.reason.strip(), "say why: Unauthorized('a token is needed')"
    if isinstance(refused, Unauthorized):
        assert refused.challenge.isprintable(), f"{refused.challenge!r} cannot be a header"
        assert refused.challenge.strip(), "say how, in `challenge`"
