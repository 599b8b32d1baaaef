"""The guard `hours`: refuses jobs for containers that are closed at this hour of the day, UTC."""

from time import time
from typing import Annotated

from msgspec import Meta, Struct, convert

from nodekit import JobRequest, Node, Provider, Refusal


class Hours(Struct, frozen=True, kw_only=True):
    """The hours at which a container is open.

    - `opens`: The hour at which it opens: 7.5 is half past seven. Equal to `closes`: it is always open.
    - `closes`: The hour at which it closes. Less than `opens`: it is open over midnight.
    """

    opens: Annotated[float, Meta(ge=0, le=24)] = 0
    closes: Annotated[float, Meta(ge=0, le=24)] = 0


class HoursGuard:
    container_rules = Hours

    async def nodekit_admit(self, request: JobRequest, node: Node) -> None:
        for name in request.containers:
            container = node.containers.get(name)
            hours = convert(container.rules if container else {}, Hours)  # unset fields get their defaults
            if (time() / 3600 - hours.opens) % 24 >= ((hours.closes - hours.opens) % 24 or 24):
                raise Refusal("Container is closed", container=name, opens=hours.opens, closes=hours.closes)


provider = Provider(Struct, lambda config, file: HoursGuard(), container=Hours)  # only containers have settings
