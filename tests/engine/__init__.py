"""The test bed: a real engine, images made without a network, registries on loopback.

Tests take the fixtures of `engine.fixtures`; `python tests/engine run -- COMMAND…` runs a command beside an engine.
"""

from engine.bed import Engine, NoEngine, open_engine
from engine.dockerd import Dockerd
from engine.images import LABEL, Images
from engine.registry import Registry

__all__ = ["LABEL", "Dockerd", "Engine", "Images", "NoEngine", "Registry", "open_engine"]
