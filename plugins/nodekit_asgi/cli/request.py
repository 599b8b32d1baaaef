"""A job request built from a command line."""

import codecs
import re
from collections.abc import Sequence
from typing import BinaryIO
from uuid import uuid4

import anyio
import click
import msgspec

from nodekit import InvalidPayload, parse_json
from nodekit_asgi.cli.job_ids import job_path

MAX_DATA_BYTES = 1 << 28
"""Maximum size of the data that is read. A node takes 16 MiB, unless its `max_body_bytes` says otherwise."""
LONGEST_KEY = 255
"""Characters of an idempotency key."""
_raw: msgspec.json.Decoder[msgspec.Raw] = msgspec.json.Decoder(msgspec.Raw)


class Submission(msgspec.Struct, frozen=True):
    """A request that makes a job. It is the same each time it is sent."""

    body: bytes
    headers: dict[str, str]
    path: str = "/api/jobs"

    @property
    def key(self) -> str:
        return self.headers["Idempotency-Key"]


def submission(
    containers: Sequence[str],
    data: msgspec.Raw,
    *,
    pipeline: str | None,
    requires_proof: bool,
    priority: int | None,
    key: str | None,
) -> Submission:
    """Build a submission. Raise `click.UsageError` for arguments that are not UTF-8."""
    fields: dict[str, object] = {"containers": containers, "data": data}
    if pipeline is not None:
        fields["pipeline"] = pipeline
    if requires_proof:
        fields["requires_proof"] = True
    try:
        return Submission(msgspec.json.encode(fields), _headers(priority, key))
    except UnicodeEncodeError as error:
        raise click.UsageError(
            "the arguments are not UTF-8; write the data into a file, and name it with --file"
        ) from error


def another_try(id: str, *, start: str, priority: int | None, key: str | None) -> Submission:
    """Build the request to retry the job with this id. Raise `Refused` if no job can have it."""
    body = msgspec.json.encode({"from": start})
    return Submission(body, _headers(priority, key), job_path(id, "/retry"))


def _headers(priority: int | None, key: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid4()) if key is None else key}
    return headers if priority is None else {**headers, "Priority": f"u={priority}"}


def read_data(text: str | None, file: BinaryIO | None) -> msgspec.Raw:
    """Return the job's data exactly as written. Raise `click.UsageError` if it is not a JSON object."""
    if text is not None and file is not None:
        raise click.UsageError("--data and --file exclude each other: the data comes from one of them")
    if file is not None:
        data, name = file.read(MAX_DATA_BYTES + 1), name_of(file)
        if len(data) > MAX_DATA_BYTES:
            raise click.UsageError(f"--file {name}: larger than {MAX_DATA_BYTES} bytes, more than any node takes")
        return _object(data.removeprefix(codecs.BOM_UTF8), f"--file {name}")
    return msgspec.Raw(b"{}") if text is None else _object(text.encode(errors="surrogateescape"), "--data")


def name_of(file: BinaryIO) -> str:
    """Return the name of a file. Not every standard input has one."""
    return str(getattr(file, "name", "<stdin>"))


def _object(text: bytes, where: str) -> msgspec.Raw:
    try:
        text.decode()
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{where}: not UTF-8") from error
    except msgspec.ValidationError as error:
        raise click.UsageError(f'{where}: expected a JSON object, such as {{"text": "hello"}}') from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise click.UsageError(
            f'{where}: {fault_of(text, error)}; expected an object, such as {{"text": "hello"}}'
        ) from error
    return msgspec.Raw(text)


def fault_of(text: bytes, error: Exception) -> str:
    """Return what is wrong with a text that the decoder of JSON refused with `error`, as a node would tell it."""
    try:
        anyio.run(parse_json, text, _raw)
    except InvalidPayload as fault:
        return str(fault)
    return f"not JSON: {error}"


def check_key(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Check `--idempotency-key`, which is sent as the value of a header."""
    if value is not None and not (re.fullmatch(r"[!-~]+", value) and len(value) <= LONGEST_KEY):
        raise click.BadParameter("expected 1 to 255 visible ASCII characters", ctx, param)
    return value
