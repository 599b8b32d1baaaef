"""The runner `remote`: containers that run elsewhere, called over HTTP.

`ContainerHttp` speaks the container protocol. Runners that start containers themselves build on it and on the other
names here: they share `StartingRunner`, with an `Upkeep` for each `StartedContainer`.
"""

from nodekit_remote._container import HttpContainer
from nodekit_remote._http import ContainerHttp, Endpoint, Streamed, health_url
from nodekit_remote._listening import listening_places, shown_places
from nodekit_remote._output import MAX_LINE_BYTES, ContainerLog, printable_line, text_for_clients
from nodekit_remote._progress import StartProgress
from nodekit_remote._runner import RemoteConfig, RemoteContainer, RemoteRunner, provider
from nodekit_remote._started import StartedContainer, restart_pause
from nodekit_remote._starter import UNBUFFERED, StartingRunner, Upkeep, env_problems, id_problems, plain_env

__all__ = [
    "MAX_LINE_BYTES",
    "UNBUFFERED",
    "ContainerHttp",
    "ContainerLog",
    "Endpoint",
    "HttpContainer",
    "RemoteConfig",
    "RemoteContainer",
    "RemoteRunner",
    "StartProgress",
    "StartedContainer",
    "StartingRunner",
    "Streamed",
    "Upkeep",
    "env_problems",
    "health_url",
    "id_problems",
    "listening_places",
    "plain_env",
    "printable_line",
    "provider",
    "restart_pause",
    "shown_places",
    "text_for_clients",
]
