"""The plugin `apikeys`: callers are known by keys, each of which says what its caller may do.

They are in a file, or in the store of the node. The command `nodekit keys` writes them. The node reads them again when
they change.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from nodekit import CompositionError, Problem, Provider
from nodekit_apikeys._key import OPERATE, Policy
from nodekit_apikeys._plugin import ApiKeys

__all__ = ["ApiKeys", "ApiKeysConfig", "Policy", "provider"]


class ApiKeysConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the plugin in a node file.

    - `keys`: Place of the keys: ``file``, or ``store``, which all nodes on one store share.
    - `path`: File of the keys. `nodekit keys create` makes it.
    - `anonymous`: Rights of callers without a key. Unset: they are turned away.
    - `slow_down_seconds`: Longest time that a wrong key waits for its answer, if its address has failed often.
    """

    keys: Literal["file", "store"] = "file"
    path: Path | None = None
    anonymous: Policy | None = None
    slow_down_seconds: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1.0

    def __post_init__(self) -> None:
        if self.keys == "store" and self.path is not None:
            raise ValueError('path: keys = "store" needs no file; remove one of the two')
        if self.keys == "file" and self.path is None:
            raise ValueError('path: missing; name a file for the keys, or set keys = "store"')
        if "\0" in str(self.path):
            raise ValueError("path: no file has a NUL in its name")
        if self.anonymous is not None and OPERATE in self.anonymous.scopes:
            raise ValueError("anonymous.scopes: operate is for keys alone; remove it here")


def _build(config: ApiKeysConfig) -> ApiKeys:
    if config.path is not None and os.path.isdir(config.path):
        raise CompositionError(Problem("path", f"{config.path} is a folder; name a file"))
    return ApiKeys(config.path, anonymous=config.anonymous, slow_down_seconds=config.slow_down_seconds)


provider = Provider(ApiKeysConfig, lambda config, file: _build(config))
