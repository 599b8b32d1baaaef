"""Differences of the older profile's operations."""

from collections.abc import Mapping

from msgspec.structs import replace

from nodekit_asgi.openapi.operation import Answer, Content, Key, Operation
from nodekit_asgi.openapi.shared import errors
from nodekit_asgi.openapi.submitting import MALFORMED, REFUSALS
from nodekit_asgi.wire.profiles import ProfileName

_REFUSED = errors("The node refuses the job. Plugins can add their own refusals.", **REFUSALS)

_CHANGES: Mapping[ProfileName, Mapping[Key, Mapping[int, Answer | None]]] = {
    "infernet-1.4": {
        ("/api/jobs", "POST"): {400: MALFORMED, 405: _REFUSED},
        ("/api/jobs/stream", "POST"): {400: MALFORMED, 405: _REFUSED},
        ("/api/jobs/{id}/retry", "POST"): {400: MALFORMED, 405: _REFUSED},
        ("/api/jobs", "GET"): {404: None},
        ("/api/status", "PUT"): {200: Answer("The job is finished.", Content({"type": "null"}, {"done": None}))},
    },
}
"""The answers that differ, by profile and operation. None: the profile does not have this answer."""


def as_in_profile(operations: Mapping[Key, Operation], profile: ProfileName) -> Mapping[Key, Operation]:
    changes = _CHANGES.get(profile, {})
    return {key: _changed(operation, changes.get(key, {})) for key, operation in operations.items()}


def _changed(operation: Operation, changes: Mapping[int, Answer | None]) -> Operation:
    answers = {status: answer for status, answer in {**operation.answers, **changes}.items() if answer is not None}
    return replace(operation, answers=answers)
