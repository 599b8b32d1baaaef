"""The settings of every container that is called over HTTP."""

from typing import Annotated, Literal

import msgspec

from nodekit import Container, Secret

MAX_REPLY_BYTES = 16 * 1024 * 1024


class HttpContainer(Container, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of every container that is called over HTTP.

    - `bearer`: Sent as ``Authorization: Bearer …``.
    - `http_errors`: Meaning of the JSON body of an HTTP error: the error, or the output, as some containers intend.
    """

    bearer: Secret | None = None
    http_errors: Literal["fail", "output"] = "fail"
    max_reply_bytes: Annotated[int, msgspec.Meta(ge=1)] = MAX_REPLY_BYTES
