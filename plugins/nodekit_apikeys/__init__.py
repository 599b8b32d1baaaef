"""The plugin `apikeys`: callers are known by keys, which a file lists together with what each may do.

The command `nodekit keys` writes the file. The node reads it again when it changes.
"""

import os
from pathlib import Path
from typing import Annotated

import msgspec

from nodekit import CompositionError, Problem, Provider
from nodekit_apikeys._key import OPERATE, Policy
from nodekit_apikeys._plugin import ApiKeys

__all__ = ["ApiKeys", "ApiKeysConfig", "Policy", "provider"]


class ApiKeysConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the plugin in a node file.

    - `path`: File of the keys. `nodekit keys create` makes it.
    - `anonymous`: Rights of callers without a key. Unset: they are turned away.
    - `slow_down_seconds`: Longest time that a wrong key waits for its answer, if its address has failed often.
    """

    path: Path
    anonymous: Policy | None = None
    slow_down_seconds: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1.0

    def __post_init__(self) -> None:
        if "\0" in str(self.path):
            raise ValueError("path: no file has a NUL in its name")
        if self.anonymous is not None and OPERATE in self.anonymous.scopes:
            raise ValueError("anonymous.scopes: operate is for keys alone; remove it here")


def _build(config: ApiKeysConfig) -> ApiKeys:
    if os.path.isdir(config.path):
        raise CompositionError(Problem("path", f"{config.path} is a folder; name a file"))
    return ApiKeys(config.path, anonymous=config.anonymous, slow_down_seconds=config.slow_down_seconds)


provider = Provider(ApiKeysConfig, lambda config, file: _build(config))
