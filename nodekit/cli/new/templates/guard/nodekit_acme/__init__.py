"""The guard `acme`: refuses jobs whose data is too large for the node, or for one of their containers.

Where to go on: `node` knows its containers, its limits and its pending jobs. `request` says who asks (`client`,
`address`). Data is not decoded until you ask for its value with `decode_payload(request.data)`.
"""

from typing import Annotated

import msgspec

from nodekit import Admits, JobRequest, Node, NodeFile, Provider, Refusal

__all__ = ["AcmeConfig", "AcmeGuard", "AcmeRules", "provider"]

Bytes = Annotated[int, msgspec.Meta(ge=2)]


class AcmeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table of the guard in a node file.

    - `max_data_bytes`: Maximum size of a job's data, in bytes. Containers may set a lower limit.
    """

    max_data_bytes: Bytes = 1024 * 1024


class AcmeRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys that the guard adds to the table of every container of every runner.

    - `max_data_bytes`: Maximum size of the data of a job that names the container, in bytes; by default the guard's own
      limit.
    """

    max_data_bytes: Bytes | None = None


class AcmeGuard(Admits):
    """A guard that refuses by raising `Refusal`. Any other exception also refuses, so that a bug lets nobody in."""

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
    """Build the guard of a node file. Acquire nothing here: resources are opened when the node starts."""
    return AcmeGuard(config)


provider = Provider(AcmeConfig, from_config, container=AcmeRules)
