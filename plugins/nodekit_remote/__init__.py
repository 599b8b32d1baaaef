"""The runner `remote`: containers that run elsewhere, called over HTTP.

`ContainerHttp` speaks the container protocol; runners that bring up containers themselves build on it, on
`StartedContainer` and on `restart_pause`.
"""

from nodekit_remote._http import ContainerHttp, Endpoint, HttpContainer
from nodekit_remote._runner import RemoteConfig, RemoteContainer, RemoteRunner, offer
from nodekit_remote._started import StartedContainer, restart_pause

__all__ = [
    "ContainerHttp",
    "Endpoint",
    "HttpContainer",
    "RemoteConfig",
    "RemoteContainer",
    "RemoteRunner",
    "StartedContainer",
    "offer",
    "restart_pause",
]
