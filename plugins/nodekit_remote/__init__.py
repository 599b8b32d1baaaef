"""The runner `remote`: containers that run elsewhere, called over HTTP.

`ContainerHttp` speaks the container protocol; runners that bring up containers themselves build on it.
"""

from nodekit_remote._http import ContainerHttp, Endpoint, HttpContainer
from nodekit_remote._runner import RemoteConfig, RemoteContainer, RemoteRunner, offer

__all__ = [
    "ContainerHttp",
    "Endpoint",
    "HttpContainer",
    "RemoteConfig",
    "RemoteContainer",
    "RemoteRunner",
    "offer",
]
