"""A store of node files that lies in the memory of the test; `plant` makes it known as the store ``shared``."""

from nodekit.testing import SharedMemory

running: list[SharedMemory] = []
"""The engine that the test has entered."""

MODULE = """
import msgspec
import shared_memory
from nodekit import Provider

provider = Provider(msgspec.Struct, lambda config, file: shared_memory.running[0].store())
"""
