"""Pulling an image, and saying what went wrong in words that hold the cure."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from docker.utils import parse_repository_tag

from nodekit import NodekitError
from nodekit_docker._config import Credentials

PullFault: TypeAlias = Literal["missing", "credentials", "disk", "unreachable", "other"]


class PullFailed(NodekitError):
    """An image could not be had."""

    def __init__(self, fault: PullFault, text: str) -> None:
        self.fault: PullFault = fault
        super().__init__(text)


class Pulled(msgspec.Struct, frozen=True):
    """How far it has got, in bytes; the total grows while layers become known."""

    done: int
    total: int


_SIGNS: tuple[tuple[PullFault, str], ...] = (
    ("disk", r"no space left on device|disk quota exceeded"),
    (
        "credentials",
        r"unauthorized|authentication required|no basic auth credentials|incorrect username or password|"
        r"access to the resource is denied|pull access denied|forbidden|denied: ",
    ),
    ("missing", r"manifest unknown|not found|does not exist|invalid reference format|no matching manifest"),
    (
        "unreachable",
        r"connection refused|no such host|i/o timeout|timeout exceeded|connection reset|network is unreachable|"
        r"no route to host|tls|x509|http response to https|\bEOF\b|server misbehaving|service unavailable|bad gateway|"
        r"received unexpected http status: 5",
    ),
)
_CURES: Mapping[PullFault, str] = {
    "disk": "the engine's disk is full: `docker system prune` removes what nobody uses",
    "credentials": "the registry refused the credentials; see `registry`, or `docker login` as the user of the node",
    "missing": "the registry has no such image, tag or digest, or not for this machine",
    "unreachable": "its registry cannot be reached",
    "other": "the pull failed",
}


def pull_failed(image: str, told: str, *, credentials: bool) -> PullFailed:
    """What an engine's text means. Registries hide private images from strangers as if they were not there."""
    fault = _fault(told)
    cure = _CURES[fault]
    if fault == "credentials" and not credentials:
        cure = "the registry wants credentials, or there is no such image; see `registry`, or `docker login`"
    return PullFailed(fault, f"image {image}: {cure} ({told.strip()})")


def _fault(told: str) -> PullFault:
    for fault, signs in _SIGNS:
        if re.search(signs, told, re.IGNORECASE):
            return fault
    return "other"


def pull(
    api: Any, image: str, credentials: Credentials | None, report: Callable[[Pulled], None], wanted: Callable[[], bool]
) -> None:
    """Pull it, for as long as it is wanted. To be called in a thread; raises `PullFailed` and the client's errors.

    The stream is read here: the client's own helpers take a full disk for a missing image.
    """
    repository, tag = parse_repository_tag(image)
    auth = {"username": credentials.username, "password": credentials.password.reveal()} if credentials else None
    stream: Iterator[Mapping[str, Any]] = api.pull(
        repository, tag=tag or "latest", stream=True, decode=True, auth_config=auth
    )
    layers: dict[str, tuple[int, int]] = {}
    for message in stream:
        if not wanted():
            return
        if told := message.get("error"):
            raise pull_failed(image, str(told), credentials=credentials is not None)
        _note(layers, message)
        report(Pulled(sum(done for done, _ in layers.values()), sum(total for _, total in layers.values())))


def _note(layers: dict[str, tuple[int, int]], message: Mapping[str, Any]) -> None:
    """What is downloaded of each layer."""
    layer = message.get("id")
    detail: Mapping[str, Any] = message.get("progressDetail") or {}
    if not layer:
        return
    if message.get("status") == "Downloading" and detail.get("total"):
        layers[layer] = int(detail.get("current") or 0), int(detail["total"])
    elif message.get("status") in ("Download complete", "Pull complete") and layer in layers:
        layers[layer] = layers[layer][1], layers[layer][1]
