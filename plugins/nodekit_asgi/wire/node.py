"""Replies about the node itself, and error replies, on the wire."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from nodekit_asgi.wire.fields import ContainerField, about


class WireErrorReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The reason why a request could not be answered as asked."""

    error: Annotated[
        str,
        about("What is wrong, for a person to read; a refusal's is always the same.", "Container not supported"),
    ]
    params: Annotated[
        Mapping[str, Any] | UnsetType, about("Facts of it, for a program to read.", {"container": "upper"})
    ] = UNSET


class WireContainer(msgspec.Struct, frozen=True):
    """A container that can be called right now."""

    id: ContainerField
    external: Annotated[bool, about("Whether a job may begin with it.", True)]
    image: Annotated[str, about("The image that it runs; empty where it is no image's.", "registry.example/upper:1.4")]
    description: Annotated[str, about("What it does; empty where nobody said.", "A text in upper case")]


class WirePending(msgspec.Struct, frozen=True):
    """The numbers of jobs that are accepted and not finished, by their origin."""

    offchain: Annotated[int, about("From HTTP.", 3, minimum=0)]
    onchain: Annotated[int, about("From a chain.", 0, minimum=0)]


class WireChain(msgspec.Struct, frozen=True):
    """The node's connection to a chain."""

    enabled: Annotated[bool, about("Whether it takes jobs from one.", False)]
    address: Annotated[str, about("Its address there; empty where it has none.", "")]


class WireInfo(msgspec.Struct, frozen=True):
    """The node's version, and the containers that can be called right now."""

    version: Annotated[str, about("The version of nodekit.", "0.1.0")]
    containers: Annotated[list[WireContainer], about("Those that can be called now.")]
    pending: WirePending
    chain: WireChain


class WireHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """The health of the node: its ability to do its work."""

    status: Annotated[Literal["healthy", "unhealthy"], about("`unhealthy`: send no jobs.", "healthy")]
    reasons: Annotated[
        list[str] | UnsetType,
        about("What is wrong, in whole or in part; left out where nothing is.", ["no container is running"]),
    ] = UNSET
