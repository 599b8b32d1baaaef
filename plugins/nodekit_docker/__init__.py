"""The runner `docker`: runs each container on a Docker engine and calls it over HTTP.

A container's program must listen on 0.0.0.0 at its `port`. The runner publishes that port on loopback, at a port that
the engine picks. A container that dies is recreated, after pauses that grow. All containers are removed when the node
stops. Containers that a killed node leaves behind are found by their labels at the next start. The runner needs
asyncio, as the HTTP client does.
"""

from nodekit_docker.config import Credentials, DockerConfig, DockerContainer, Gpus
from nodekit_docker.engine.errors import EngineGone, EngineRefused, NameTaken
from nodekit_docker.runner import DockerRunner, provider

__all__ = [
    "Credentials",
    "DockerConfig",
    "DockerContainer",
    "DockerRunner",
    "EngineGone",
    "EngineRefused",
    "Gpus",
    "NameTaken",
    "provider",
]
