"""Texts for requests and objections in the messages of suites."""

from typing import Any

from msgspec import Raw

from nodekit import ContainerError, ContainerResult, JobRequest, Refusal, Step, Unavailable, encode_payload


def shown_objection(objection: Refusal | Unavailable) -> str:
    """Return the text that a client receives. Raise AssertionError if the reason is empty or the params are not
    JSON."""
    reason: Any = objection.reason
    if not isinstance(reason, str) or not reason.strip():
        raise AssertionError(f"a refusal says why, as text; the reason of this one is {reason!r}")
    if isinstance(objection, Unavailable):
        return reason
    try:
        return f"{reason} {bytes(encode_payload(objection.params)).decode()}"
    except Exception as error:
        raise AssertionError(f"the params of {reason!r} go to the client as JSON, and cannot: {error}") from error


def shown_payload(payload: Raw) -> str:
    """Describe a payload by its first bytes."""
    data = bytes(payload)
    return f"{data[:80]!r}{'…' * (len(data) > 80)}"


def shown_result(result: ContainerResult) -> str:
    """Describe the result of a container in a line."""
    if isinstance(result, ContainerError):
        return f"with the error {result.error[:80]!r}, kind {result.kind}"
    return shown_payload(result.output)


def shown_step(step: Step | None) -> str:
    """Describe a step in a line; None if there is none."""
    if step is None:
        return "None"
    given = f"{step.input.destination.name}, data {shown_payload(step.input.data)}"
    return f"step {step.index}, attempt {step.attempt}, in {step.container[:40]!r}, destination {given}"


def shown(request: JobRequest) -> str:
    """Describe a request in a line."""
    names = [name[:40] for name in request.containers[:5]]
    return f"a request by {request.client[:40]!r} for {names} with data {shown_payload(request.data)}"
