"""The call of a container, as plugins around a step see it (`nodekit_step`)."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol, TypeAlias

from msgspec.structs import replace

from nodekit.errors import NodekitError
from nodekit.model.container import ContainerOutput, Step

PiecesChange: TypeAlias = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
"""Takes the pieces of a stream as they come, and yields those to send on."""

PROTOCOL_HEADERS = frozenset(
    [
        "accept",
        "accept-encoding",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "idempotency-key",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
"""Headers of a call that the container protocol, or HTTP itself, sets."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]{0,8190}[\x21-\x7e])?|")


class StepCall(Protocol):
    """Calls the container of a step, through the plugins that follow."""

    async def __call__(self, step: Step, *, pieces: PiecesChange | None = None) -> ContainerOutput:
        """Call the container once. Raise `ContainerFailed` if it gives no output.

        `step` may have other headers than the one that the plugin got, and nothing else may differ. If the step
        streams, the call returns when the stream has ended, `pieces` may change what is sent on, and the output holds
        as much of that as `StreamRecord` keeps. `pieces` of other steps are not used.

        Raise `NodekitError` if the step differs otherwise, or if the container was called before: an attempt is one
        call, and `retry` of the container decides about further attempts.
        """
        ...


class SingleCall:
    """The innermost `StepCall` of an attempt. It calls the container itself, and only once."""

    def __init__(self, step: Step, call: StepCall) -> None:
        self._step = step
        self._call = call
        self.called = False
        """True once the container was called."""

    async def __call__(self, step: Step, *, pieces: PiecesChange | None = None) -> ContainerOutput:
        if self.called:
            text = "a container is called once in an attempt; its `retry` decides about further attempts"
            raise NodekitError(f"the plugin called the step again: {text}")
        if step is not self._step:
            _check_changes(self._step, step)
        self.called = True
        return await self._call(step, pieces=pieces)


def _check_changes(before: Step, after: Step) -> None:
    if replace(after, headers=before.headers) != before:
        raise NodekitError("the plugin changed the step; only its headers may be others: replace(step, headers={…})")
    check_headers(after.headers)


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise `NodekitError` for headers that no plugin may add to a call."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise NodekitError(f"{name!r:.100} is no name of a header; letters, digits and - are")
        if name.lower() in PROTOCOL_HEADERS:
            raise NodekitError(f"{name}: the container protocol sets this header; take another name")
        if not _VALUE.fullmatch(value):
            raise NodekitError(f"{name}: {value!r:.100} is no value of a header; printable ASCII is, up to 8 KiB")
