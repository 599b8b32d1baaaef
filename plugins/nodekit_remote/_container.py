"""The settings of every container that is called over HTTP."""

from typing import Annotated, Literal

import msgspec

from nodekit import Container, Secret
from nodekit_remote._requests import header_line

MAX_REPLY_BYTES = 16 * 1024 * 1024


class HttpContainer(Container, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of every container that is called over HTTP.

    - `bearer`: Sent as ``Authorization: Bearer …``.
    - `http_errors`: Meaning of the JSON body of an HTTP error: the error, or the output, as some containers intend.
    - `output_in_errors`: True shows clients, in the errors of their jobs, the beginning of replies that are not what
      was expected, and the last lines that it printed. Such lines may be about jobs of other clients. The log has both
      in any case.
    """

    bearer: Secret | None = None
    http_errors: Literal["fail", "output"] = "fail"
    max_reply_bytes: Annotated[int, msgspec.Meta(ge=1)] = MAX_REPLY_BYTES
    output_in_errors: bool = False

    def __post_init__(self) -> None:
        if self.bearer is not None:
            try:
                header_line("Authorization", self.bearer.reveal())
            except ValueError:  # not shown: it is a secret
                raise ValueError("bearer: expected a text without line breaks and control characters") from None
