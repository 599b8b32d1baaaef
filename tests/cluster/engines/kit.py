"""The small engine of `nodekit.testing`, as a process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from planted import plant

from nodekit.testing import SharedServer

PROVIDER = """
import msgspec
from nodekit import Provider
from nodekit.testing import SharedServerStore

class Config(msgspec.Struct, forbid_unknown_fields=True):
    '''The address of an engine.'''

    host: str
    port: int

provider = Provider(Config, lambda config, file: SharedServerStore(config.host, config.port))
"""


class KitEngine(SharedServer):
    """An `Engine`, whose leases are as long as it was told at its start."""

    remembers = False

    def store(self, host: str, port: int, lease_seconds: float) -> str:
        assert lease_seconds == self.lease_seconds
        return f'[store]\nuse = "kit"\nhost = "{host}"\nport = {port}\n'


@contextmanager
def running(folder: Path, lease_seconds: float) -> Iterator[KitEngine]:
    """Run the engine, and plant a provider of its store in the folder."""
    plant(folder, "kit-store", {"stores": "kit"}, PROVIDER)
    with KitEngine(folder / "kit.db", lease_seconds=lease_seconds) as engine:
        yield engine
