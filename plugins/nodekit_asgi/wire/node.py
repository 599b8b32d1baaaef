"""Replies about the node itself, and error replies, on the wire."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from nodekit_asgi.wire.fields import ContainerField, about


class WireErrorReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error reply, with the reason."""

    error: Annotated[
        str,
        about("The error, as a text for people. Each kind of refusal has a fixed text.", "Container not supported"),
    ]
    params: Annotated[
        Mapping[str, Any] | UnsetType, about("Details of the error, for programs.", {"container": "upper"})
    ] = UNSET


class WireContainer(msgspec.Struct, frozen=True):
    """A container that can be called right now."""

    id: ContainerField
    external: Annotated[bool, about("True if a job may begin with this container.", True)]
    image: Annotated[str, about("The image of the container. Empty if it has none.", "registry.example/upper:1.4")]
    description: Annotated[
        str, about("The description of the container. Empty if it has none.", "A text in upper case")
    ]


class WirePending(msgspec.Struct, frozen=True):
    """The numbers of jobs that are accepted and not finished."""

    offchain: Annotated[int, about("Jobs of clients.", 3, minimum=0)]
    onchain: Annotated[int, about("Jobs of subscriptions on a chain, delegated ones included.", 0, minimum=0)]


class WireChain(msgspec.Struct, frozen=True):
    """The node's connection to a chain."""

    enabled: Annotated[bool, about("True if the node takes jobs from a chain.", False)]
    address: Annotated[str, about("The node's address on the chain. Empty if it has none.", "")]


class WireInfo(msgspec.Struct, frozen=True):
    """The node's version, and the containers that can be called right now."""

    version: Annotated[str, about("The version of nodekit.", "0.1.0")]
    containers: Annotated[list[WireContainer], about("The containers that can be called now.")]
    pending: WirePending
    chain: WireChain


class WireHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """The health of the node: its ability to do its work."""

    status: Annotated[
        Literal["healthy", "unhealthy"], about("`unhealthy`: the node cannot work; send no jobs.", "healthy")
    ]
    reasons: Annotated[
        list[str] | UnsetType,
        about(
            "The problems of the node, also those that leave it healthy. Missing if there is none.",
            ["no container is running"],
        ),
    ] = UNSET


class WireLive(msgspec.Struct, frozen=True):
    """The proof that the node's event loop goes round."""

    status: Annotated[Literal["live"], about("Always `live`: a node that is not does not answer.", "live")]
