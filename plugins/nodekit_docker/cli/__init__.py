"""`nodekit containers` and `nodekit logs`: the containers of a node, as its engine knows them."""

from nodekit_docker.cli._containers import containers
from nodekit_docker.cli._logs import logs

__all__ = ["containers", "logs"]
