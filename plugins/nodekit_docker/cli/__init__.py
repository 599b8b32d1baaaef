"""`nodekit containers` and `nodekit logs`: show the containers of a node as its engine knows them."""

from nodekit_docker.cli.containers import containers
from nodekit_docker.cli.logs import logs

__all__ = ["containers", "logs"]
