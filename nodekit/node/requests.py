"""Checks of requests made in Python. Structs do not check themselves, and an invalid one might be unreadable later."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgspec

from nodekit.model.container import Location
from nodekit.model.job import LOWEST_PRIORITY, JobRequest

MOST_META_BYTES = 4096
_ORIGINS = (Location.OFFCHAIN, Location.ONCHAIN)


def request_problem(request: JobRequest) -> str | None:
    """Return the first field that does not fit `JobRequest` and what is expected, or None."""
    return None if _is_plain(request) else next(_problems(cast(Any, request)), None)


def _is_plain(request: JobRequest) -> bool:
    """Return True for nearly all requests. It runs for each request: a few comparisons that allocate nothing."""
    return (
        type(request.containers) is tuple
        and all(map(_is_ascii, request.containers))
        and type(request.data) is msgspec.Raw
        and len(memoryview(request.data)) > 0
        and type(request.priority) is int
        and 0 <= request.priority <= LOWEST_PRIORITY
        and _is_ascii(request.client)
        and type(request.pipeline) is str
        and request.pipeline.isascii()
        and (request.address is None or _is_ascii(request.address))
        and (request.idempotency_key is None or (request.idempotency_key != "" and _is_ascii(request.idempotency_key)))
        and (request.body_digest is None or _is_ascii(request.body_digest))
        and (request.group is None or (request.group != "" and _is_ascii(request.group)))
        and request.meta == {}
        and type(request.requires_proof) is bool
        and request.origin in _ORIGINS
        and type(request.origin) is Location
        and type(request.destination) is Location
    )


def _is_ascii(value: object) -> bool:
    return type(value) is str and value.isascii()


def _problems(request: Any) -> Iterator[str]:
    containers: Any = request.containers
    if type(containers) is not tuple:
        yield f"containers: expected a tuple of ids, got {_shown(containers)}"
    else:
        ids: tuple[object, ...] = containers  # pyright: ignore[reportUnknownVariableType]
        yield from (f"containers: expected ids, each a text, got {_shown(id)}" for id in ids if not _is_text(id))
    if not isinstance(request.data, msgspec.Raw) or not len(memoryview(request.data)):
        cure = "make the request by JobRequest.of(…), or its data by encode_payload(…)"
        yield f"data: expected JSON as msgspec.Raw, got {_shown(request.data)}; {cure}"
    if type(request.priority) is not int or not 0 <= request.priority <= LOWEST_PRIORITY:
        yield f"priority: expected a whole number from 0 (sooner) to {LOWEST_PRIORITY}, got {_shown(request.priority)}"
    for name in ("pipeline", "client"):
        if not _is_text(value := getattr(request, name)):
            yield f"{name}: expected a text, got {_shown(value)}"
    for name in ("address", "idempotency_key", "body_digest", "group"):
        if (value := getattr(request, name)) is not None and not _is_text(value):
            yield f"{name}: expected a text or None, got {_shown(value)}"
    for name in ("idempotency_key", "group"):
        if getattr(request, name) == "":
            yield f"{name}: expected a text that is not empty, or None"
    yield from _meta_problems(request.meta)
    if not isinstance(request.requires_proof, bool):
        yield f"requires_proof: expected True or False, got {_shown(request.requires_proof)}"
    if not isinstance(request.origin, Location) or request.origin is Location.STREAM:
        yield f"origin: expected Location.ONCHAIN or Location.OFFCHAIN, got {_shown(request.origin)}"
    if not isinstance(request.destination, Location):
        yield f"destination: expected a Location, got {_shown(request.destination)}"


def _meta_problems(meta: Any) -> Iterator[str]:
    if not isinstance(meta, Mapping):
        yield f"meta: expected texts by name, got {_shown(meta)}"
        return
    pairs: Mapping[object, object] = meta  # pyright: ignore[reportUnknownVariableType]
    if wrong := [pair for pair in pairs.items() if not all(map(_is_text, pair))]:
        yield f"meta: expected texts by name, got {_shown(dict(wrong))}"
    elif (size := sum(len(f"{name}{value}".encode()) for name, value in pairs.items())) > MOST_META_BYTES:
        yield f"meta: {size} bytes of names and texts; at most {MOST_META_BYTES} are kept"


def _is_text(value: object) -> bool:
    """Return True for a text without lone surrogates, which JSON and UTF-8 cannot hold."""
    if not isinstance(value, str):
        return False
    return value.isascii() or value.encode(errors="ignore").decode() == value


def _shown(value: object) -> str:
    return repr(value)[:100]
