"""The runner `docker`: every container is one of a Docker engine, called over HTTP.

A container's program must listen on 0.0.0.0 at its `port`; the runner publishes it on loopback, at a port that the
engine picks. It is made anew with growing pauses when it dies, and removed when the node stops; what a killed node
leaves is found by its labels at the next start. It runs on asyncio, as the HTTP client does.
"""

from nodekit_docker.config import Credentials, DockerConfig, DockerContainer, Gpus
from nodekit_docker.engine.errors import EngineGone, EngineRefused, NameTaken
from nodekit_docker.runner import DockerRunner, offer

__all__ = [
    "Credentials",
    "DockerConfig",
    "DockerContainer",
    "DockerRunner",
    "EngineGone",
    "EngineRefused",
    "Gpus",
    "NameTaken",
    "offer",
]
