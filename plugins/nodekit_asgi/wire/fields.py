"""Types of fields on the wire, with their descriptions for readers of the OpenAPI document."""

from typing import Annotated, Any, TypeAlias

from msgspec import Meta


def about(text: str, *examples: Any, **schema: Any) -> Meta:
    """Return a field's description, examples, and further JSON Schema keywords. None of them is checked."""
    return Meta(description=text, examples=list(examples) or None, extra_json_schema=schema or None)


JOB_ID = "01a20a76-cb0c-7b43-84a7-7cefcb7a85b8"

JobIdField: TypeAlias = Annotated[str, about("The id of a job, a UUID of version 7.", JOB_ID, format="uuid")]
ContainerField: TypeAlias = Annotated[str, about("The id of a container.", "upper")]
TimeField: TypeAlias = Annotated[
    str, about("A time in UTC, as in RFC 3339, with milliseconds.", "2026-01-05T12:00:00.004Z", format="date-time")
]
ErrorField: TypeAlias = Annotated[str, about("The error, as a text for people.", "no reply within 180 s")]
ErrorStatus: TypeAlias = Annotated[int, about("The HTTP status, if the error has one.", 502)]
