"""The pull of an image, with errors that say what to do."""

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Literal, TypeAlias

import msgspec
from docker.errors import APIError, DockerException
from docker.utils import parse_repository_tag

from nodekit import NodekitError
from nodekit_docker.config import Credentials

PullFault: TypeAlias = Literal["missing", "credentials", "disk", "limited", "unreachable", "other"]


class PullFailed(NodekitError):
    """An image could not be pulled."""

    def __init__(self, fault: PullFault, text: str) -> None:
        self.fault: PullFault = fault
        super().__init__(text)


class Pulled(msgspec.Struct, frozen=True):
    """The progress of a pull, in bytes; the total grows while layers become known."""

    done: int
    total: int


_SIGNS: tuple[tuple[PullFault, str], ...] = (
    ("disk", r"no space left on device|disk quota exceeded"),
    ("limited", r"toomanyrequests|too many requests|pull rate limit"),
    (
        "credentials",
        r"unauthorized|authentication required|no basic auth credentials|incorrect username or password|"
        r"access to the resource is denied|pull access denied|authorization failed|forbidden|denied: ",
    ),
    (
        "missing",
        r"manifest unknown|not found|does not exist|invalid reference format|no matching manifest|"
        r"cannot be used on this platform",
    ),
    (
        "unreachable",
        r"connection refused|no such host|i/o timeout|timeout exceeded|deadline exceeded|timed out|connection reset|"
        r"network is unreachable|no route to host|name resolution|tls|x509|http response to https|\bEOF\b|"
        r"server misbehaving|unexpected http status: 5|unexpected status from [^:]* request to \S+: 5",
    ),
)
_CURES: Mapping[PullFault, str] = {
    "disk": "the engine's disk is full: `docker system prune` removes what nobody uses",
    "credentials": "the registry refused the credentials; see `registry`, or `docker login` as the user of the node",
    "limited": "the registry allows no more pulls for now; wait, or see `registry`: accounts often may pull more",
    "missing": "the registry has no such image, tag or digest, or not for this machine",
    "unreachable": "its registry cannot be reached",
    "other": "the pull failed",
}


def pull_failed(image: str, reason: str, *, credentials: bool) -> PullFailed:
    """Translate an engine's error text. Registries hide private images from strangers as if they did not exist."""
    fault = _fault(_without_name(image, reason))
    cure = _CURES[fault]
    if fault == "credentials" and not credentials:
        cure = "the registry wants credentials, or there is no such image; see `registry`, or `docker login`"
    return PullFailed(fault, f"image {image}: {cure} ({reason.strip()})")


def _without_name(image: str, reason: str) -> str:
    """Remove the image's name, which may contain words that are signs of an error."""
    repository, _ = parse_repository_tag(image)
    return reason.replace(repository, "") if "/" in repository else reason


def _fault(reason: str) -> PullFault:
    for fault, signs in _SIGNS:
        if re.search(signs, reason, re.IGNORECASE):
            return fault
    return "other"


def pull(
    api: Any, image: str, credentials: Credentials | None, report: Callable[[Pulled], None], wanted: Callable[[], bool]
) -> None:
    """Pull the image, for as long as `wanted` returns True. Raises `PullFailed` and the client's errors.

    Call it in a thread. It reads the stream itself, because the client's own helpers report a full disk as a missing
    image.
    """
    repository, tag = parse_repository_tag(image)
    auth = {"username": credentials.username, "password": credentials.password.reveal()} if credentials else None
    layers: dict[str, tuple[int, int]] = {}
    with closing(_begun(api, image, repository, tag or "latest", auth)) as stream:  # else the engine goes on
        for message in stream:
            if not wanted():
                return
            if reason := message.get("error"):
                raise pull_failed(image, str(reason), credentials=credentials is not None)
            _note(layers, message)
            report(Pulled(sum(done for done, _ in layers.values()), sum(total for _, total in layers.values())))


def _begun(api: Any, image: str, repository: str, tag: str, auth: Mapping[str, str] | None) -> Any:
    """Start the pull with the current credentials of `docker login`.

    Errors about these credentials come from the client, not from the engine, so they are recognised here.
    """
    try:
        api.reload_config()
        return api.pull(repository, tag=tag, stream=True, decode=True, auth_config=auth)
    except APIError:
        raise
    except DockerException as error:
        text = f"the credentials that `docker login` stored for its registry cannot be read: {error}; see `registry`"
        raise PullFailed("credentials", f"image {image}: {text}") from error


def _note(layers: dict[str, tuple[int, int]], message: Mapping[str, Any]) -> None:
    """Record the downloaded and the total bytes of each layer."""
    layer = message.get("id")
    detail: Mapping[str, Any] = message.get("progressDetail") or {}
    if not layer:
        return
    if message.get("status") == "Downloading" and detail.get("total"):
        layers[layer] = int(detail.get("current") or 0), int(detail["total"])
    elif message.get("status") in ("Download complete", "Pull complete") and layer in layers:
        layers[layer] = layers[layer][1], layers[layer][1]
