"""Jobs as JSON on the wire. Unknown fields are ignored; the client is never read from a body.

Replies are `nodekit.JobResult`; `WireJob` and its parts describe them for the OpenAPI document.
"""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Annotated, Any
from uuid import UUID

import anyio.to_thread
import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from nodekit import (
    Container,
    Decoder,
    InvalidPayload,
    JobId,
    JobRequest,
    ResultStatus,
    RetryFrom,
    SubscriptionRequest,
    counted,
)
from nodekit import parse_json as parse_any_json
from nodekit_asgi.config import Limits
from nodekit_asgi.http.headers import idempotency_key, urgency
from nodekit_asgi.http.messages import HttpError, Request
from nodekit_asgi.wire.bounded_arrays import LONGEST, TooLong, array_decoder
from nodekit_asgi.wire.fields import ContainerField, JobIdField, about
from nodekit_asgi.wire.node import WireContainer

LONG_DIGEST_BYTES = 1 << 20
"""Size above which a digest is made off the event loop, because it takes milliseconds."""

NO_SUCH_JOB = "no such job"
NO_STREAM = "a subscription has no stream: send it to /api/jobs"


class WireRequest(msgspec.Struct, frozen=True):
    """A job request: containers that are called one after another. The output of each is the input of the next.

    Other fields are ignored. A delegated subscription has `signature` and `subscription`, and the reply to one is an
    empty object. It is refused with `Chain not enabled` unless the node takes part in a chain.
    """

    containers: Annotated[
        list[ContainerField] | UnsetType,
        about("The containers, in the order in which they are called.", ["upper"], ["upper", "translate"]),
    ] = UNSET
    data: Annotated[
        Raw | UnsetType,
        about("The input of the first container. It is passed on unchanged.", {"text": "hello"}, type="object"),
    ] = UNSET
    pipeline: Annotated[str | None, about("The pipeline of the job, by default `sequence`.", "sequence")] = None
    requires_proof: Annotated[bool | None, about("True if the last container must give a proof.", False)] = None
    signature: Annotated[Raw | UnsetType, about("A field of a delegated subscription.")] = UNSET
    subscription: Annotated[Raw | UnsetType, about("A field of a delegated subscription.")] = UNSET


_STARTS: Mapping[str, RetryFrom] = {"failed": "failed", "start": "start"}


class WireRetry(msgspec.Struct, frozen=True):
    """A request to retry a failed job, and the step to start from."""

    start: Annotated[
        str, about("`failed`: the step that failed. `start`: the first step.", "failed", enum=[*_STARTS])
    ] = msgspec.field(name="from", default="failed")


class WireAccepted(msgspec.Struct, frozen=True):
    """The id of an accepted job. The job is stored, and can be read."""

    id: JobIdField


class WireSubscribed(msgspec.Struct, frozen=True):
    """The node keeps a delegated subscription and works on it. It has no id: its results go to the chain."""


class WireReport(msgspec.Struct, frozen=True):
    """The outcome of a job, reported from outside the node."""

    id: JobIdField
    status: Annotated[ResultStatus, about("The status of the job. `running` changes nothing.", "success")]
    containers: Annotated[
        list[ContainerField],
        about("The containers that were called. The result belongs to the last one.", ["upper"], minItems=1),
    ]
    data: Annotated[
        Raw | UnsetType,
        about(
            "The output. For a failed job, the error: a text, or an object with the text in `error`.", {"text": "HELLO"}
        ),
    ] = UNSET


class WireResult(msgspec.Struct, frozen=True):
    """The result of a step: an output or an error."""

    container: ContainerField


class WireOutput(WireResult, frozen=True):
    """The output of a container."""

    output: Annotated[Raw, about("Any JSON, unchanged from the container.", {"text": "HELLO"})]


class WireError(WireResult, frozen=True):
    """The final error of a step."""

    error: Annotated[str, about("The error. `cancelled` for a cancelled job.", "no reply within 180 s")]


class WireJob(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a job, with its results so far."""

    id: JobIdField
    status: Annotated[
        ResultStatus, about("The status. A waiting job is `running`, a cancelled job is `failed`.", "success")
    ]
    result: Annotated[
        WireResult | None, about("The result of the last step, or the error that ended the job. Null until then.")
    ]
    intermediate_results: Annotated[
        list[WireResult] | UnsetType, about("The results of the other finished steps, if the request asks for them.")
    ] = UNSET


class _Request(WireRequest, frozen=True):
    """A request whose containers are not decoded yet: there may be millions of them in one body."""

    containers: Raw | UnsetType = UNSET  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]


class _Report(WireReport, frozen=True):
    """A report whose containers are not decoded yet."""

    containers: Raw  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]


_item: msgspec.json.Decoder[_Request] = msgspec.json.Decoder(_Request)
_report: msgspec.json.Decoder[_Report] = msgspec.json.Decoder(_Report)
_retry: msgspec.json.Decoder[WireRetry] = msgspec.json.Decoder(WireRetry)


async def read_item(request: Request) -> JobRequest | SubscriptionRequest:
    """Read the body as one job request, or as a subscription."""
    key = idempotency_key(request)
    body = await request.body()
    asked = job_request(await _parse(body, _item, request.limits), request, urgency(request))
    if key is None or isinstance(asked, SubscriptionRequest):
        return asked
    return replace(asked, idempotency_key=key, body_digest=await _digest(body))


async def read_retry(request: Request, id: JobId) -> tuple[RetryFrom, str]:
    """Return where the retry begins, and a digest of the body and the job id: an idempotency key covers both."""
    body = await request.body()
    wire: WireRetry = await _parse(body or b"{}", _retry, request.limits)
    if wire.start not in _STARTS:
        raise HttpError(400, "from: expected failed or start")
    return _STARTS[wire.start], await _digest(b"retry %s\n%s" % (id.encode(), body))


async def read_items(request: Request) -> list[Raw]:
    """Read the items of a batch. Each of them has still to be checked."""
    if request.values(b"idempotency-key"):
        raise HttpError(400, "Idempotency-Key: is not taken for a batch; submit jobs that have keys one by one")
    most = request.limits.max_batch
    try:
        items: list[Raw] = await _parse(await request.body(), array_decoder(Raw, most), request.limits)
    except TooLong as error:
        raise HttpError(413, f"a batch of more than {counted(most, 'item')}; split it") from error
    return items


async def read_report(request: Request) -> WireReport:
    """Read the body as a status report."""
    told: _Report = await _parse(await request.body(), _report, request.limits)
    report = WireReport(told.id, told.status, _containers(told.containers, LONGEST), told.data)
    if not report.containers:
        raise HttpError(400, "containers: expected the ids of the containers that were called, at least one")
    return report


def batch_item(item: Raw, request: Request, priority: int) -> JobRequest | SubscriptionRequest | str:
    """Return an item of a batch as a request, or the error in it."""
    try:
        return job_request(_item.decode(item), request, priority)
    except msgspec.DecodeError as error:
        return _explain(str(error))
    except HttpError as error:
        return str(error)


async def _digest(body: bytes | bytearray) -> str:
    if len(body) > LONG_DIGEST_BYTES:
        return await anyio.to_thread.run_sync(_blake2b, body)
    return _blake2b(body)


def _blake2b(body: bytes | bytearray) -> str:
    return blake2b(body, digest_size=16).hexdigest()


async def _parse(body: bytes | bytearray, decoder: Decoder[Any], limits: Limits) -> Any:
    try:
        return await parse_any_json(body, decoder, max_depth=limits.max_json_depth)
    except InvalidPayload as error:
        raise HttpError(400, f"the body is {error}") from error
    except msgspec.ValidationError as error:
        raise HttpError(400, _explain(str(error))) from error


def _containers(array: Raw, most: int) -> list[str]:
    """Decode ids of containers. Raise `HttpError` if they are too many, or anything else."""
    try:
        return array_decoder(str, most).decode(array)
    except TooLong as error:
        raise HttpError(400, f"containers: more than {most} of them") from error
    except msgspec.ValidationError as error:
        raise HttpError(400, _explain(str(error), "containers")) from error


def job_request(wire: _Request, request: Request, priority: int) -> JobRequest | SubscriptionRequest:
    """Build the request for a job or for a subscription. Raise `HttpError` for a missing or wrong field."""
    if wire.signature is not UNSET and wire.subscription is not UNSET:
        return SubscriptionRequest(
            signature=wire.signature.copy(),
            subscription=wire.subscription.copy(),
            data=None if wire.data is UNSET else wire.data.copy(),
        )
    if wire.containers is UNSET:
        raise HttpError(400, "containers: is missing; expected an array of container ids")
    containers = _containers(wire.containers, request.limits.max_steps)
    if wire.data is UNSET:
        raise HttpError(400, "data: is missing; expected an object")
    if not bytes(memoryview(wire.data)[:1]) == b"{":
        raise HttpError(400, "data: expected an object")
    return JobRequest(
        containers=tuple(containers),
        data=wire.data.copy(),  # a piece of the body would keep the whole body in memory
        pipeline=wire.pipeline or "sequence",
        requires_proof=bool(wire.requires_proof),
        client=request.client,
        group=request.group,
        address=request.address,
        priority=priority,
    )


def job_id(text: str) -> JobId:
    """Return the id in lower case. Raise `HttpError` if no job can have it."""
    id = text.lower()
    try:
        if str(UUID(id)) == id:
            return id
    except ValueError:
        pass
    raise HttpError(404, NO_SUCH_JOB)


def wire_container(container: Container) -> WireContainer:
    external = bool(container.rules.get("external", True))
    return WireContainer(container.id, external, container.image, container.description)


_TYPES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


_MISSING = re.compile(r"Object missing required field `(\w+)`")


def _explain(text: str, within: str = "") -> str:
    """Rewrite an error of msgspec as field and cure. Such as ``Expected `array`, got `str` - at `$.containers```."""
    text, _, place = text.partition(" - at `$")
    field = within + (place.rstrip("`") if within else place.rstrip("`").lstrip("."))
    if missing := _MISSING.fullmatch(text):
        return f"{field}.{missing[1]}: is missing".lstrip(".")
    text = re.sub(r"`([a-z| ]+)`", lambda found: " or ".join(_TYPES.get(w, w) for w in found[1].split(" | ")), text)
    return f"{field or 'the body'}: {text[:1].lower()}{text[1:]}"
