"""The guard `acme`: refuses jobs whose data is too large, for the node or for one of their containers.

Where to go on: `node` knows its containers, its limits and what is pending; `request` says who asks (`client`,
`address`). Data is not decoded before somebody asks for its value: `decode_payload(request.data)`.
"""

from typing import Annotated

import msgspec

from nodekit import JobRequest, Node, NodeFile, Offer, Refusal

__all__ = ["AcmeConfig", "AcmeGuard", "AcmeRules", "offer"]

Bytes = Annotated[int, msgspec.Meta(ge=2)]


class AcmeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the guard in a node file."""

    max_data_bytes: Bytes = 1024 * 1024
    """How much data a job may bring, where its containers do not say less."""


class AcmeRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a container may say, whichever runner it is of."""

    max_data_bytes: Bytes | None = None
    """How much data a job may bring that names it; none: as much as the guard's own setting allows."""


class AcmeGuard:
    """Objects by raising `Refusal`. Any other exception refuses too, so that a bug lets nobody in."""

    container_rules = AcmeRules

    def __init__(self, config: AcmeConfig) -> None:
        self._config = config

    async def nodekit_admit(self, request: JobRequest, node: Node) -> None:
        size = len(bytes(request.data))
        for limit in (self._config.max_data_bytes, *self._of_containers(request, node)):
            if size > limit:
                raise Refusal("Data is too large", bytes=size, max_data_bytes=limit)

    def _of_containers(self, request: JobRequest, node: Node) -> list[int]:
        rules = (node.containers[name].rules for name in request.containers if name in node.containers)
        return [limit for rule in rules if (limit := rule.get("max_data_bytes")) is not None]


def from_config(config: AcmeConfig, file: NodeFile) -> AcmeGuard:
    """The guard of a node file. It acquires nothing: what is held is entered when the node starts."""
    return AcmeGuard(config)


offer = Offer(AcmeConfig, from_config, container=AcmeRules)
