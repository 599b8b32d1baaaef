"""The output of a function, piece by piece."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, Self

import msgspec

from nodekit import ContainerFailed, InvalidPayload, Step, StreamRecord, decode_payload, encode_payload

INSTANCE = "function"


_END = object()


class Pieces:
    """A generator's pieces as bytes. An error in it is a failure of the container."""

    instance = INSTANCE

    def __init__(self, pieces: AsyncIterator[bytes | str]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with translated():
            piece: object = await anext(self._pieces, _END)
            if isinstance(piece, str):
                return piece.encode()
            if isinstance(piece, bytes):
                return piece
            if piece is not _END:
                raise InvalidPayload(f"a piece that is neither bytes nor text: {type(piece).__name__}")
        raise StopAsyncIteration


@asynccontextmanager
async def pieces_of(function: Callable[[Any], Any], step: Step) -> AsyncIterator[Pieces]:
    """Yield the pieces that a function gives for a step. A plain function gives its output in one piece.

    Raise `ContainerFailed`.
    """
    data = decoded(step)
    with translated():
        answer = function(data)
        if isinstance(answer, Awaitable):
            answer = _once(bytes(encode_payload(await answer)))  # pyright: ignore[reportUnknownArgumentType]
    async with aclosing(answer) as pieces:
        yield Pieces(pieces)


async def gathered(answer: AsyncGenerator[bytes | str, None]) -> msgspec.Raw:
    """Return all pieces together, as the output of a job that does not stream."""
    record = StreamRecord()
    async with aclosing(answer) as pieces:
        async for piece in Pieces(pieces):
            record.add(piece)
    return record.output()


def decoded(step: Step) -> Any:
    """Return the data of a step. Raise `ContainerFailed` for numbers that Python cannot hold."""
    try:
        return decode_payload(step.input.data)
    except msgspec.ValidationError as error:
        text = f"the input is beyond what Python can hold: {str(error)[:1].lower()}{str(error)[1:]}"
        raise ContainerFailed("status", text, status=400) from error


@contextmanager
def translated() -> Iterator[None]:
    """Translate exceptions to `ContainerFailed`, as an HTTP 500 would be."""
    try:
        yield
    except ContainerFailed:
        raise
    except InvalidPayload as error:
        raise ContainerFailed("not_json", f"the output is {error}") from error
    except Exception as error:
        raise ContainerFailed("status", f"{type(error).__name__}: {error}", status=500) from error


async def _once(piece: bytes) -> AsyncGenerator[bytes, None]:
    yield piece
