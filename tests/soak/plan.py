"""The times of a soak, which all follow from its length."""

import json
import sys
from pathlib import Path

import msgspec

HERE = Path(__file__).parent

NODE_FILE = """
[node]
name = "soak"
concurrency = 32
max_pending = {max_pending}
memory = "384MiB"
drain_seconds = 20
keep_finished_seconds = {keep_seconds}

[log]
path = "node.log"
max_file_bytes = {log_bytes}
backups = 2

[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "process"

[[runners.containers]]
id = "work"
command = {worker}
env = {{ SOAK_PLANT = "{plant}", SOAK_MARK = "{mark}" }}
startup_seconds = 120
retry = {{ attempts = 20, first_delay_seconds = 0.1, longest_delay_seconds = 2 }}

[[runners.containers]]
id = "spare"
command = {worker}
env = {{ SOAK_MARK = "{mark}", SOAK_ID = "spare" }}
startup_seconds = 120
retry = {{ attempts = 20, first_delay_seconds = 0.1, longest_delay_seconds = 2 }}

[[runners.containers]]
id = "frail"
command = {worker}
env = {{ SOAK_MARK = "{mark}" }}
startup_seconds = 120
timeout_seconds = 2
retry = {{ attempts = 2, failures = ["connection", "timeout"], first_delay_seconds = 0.1 }}

[[runners]]
use = "remote"

[[runners.containers]]
id = "far"
url = "http://127.0.0.1:{far}"
retry = {{ attempts = 20, first_delay_seconds = 0.1, longest_delay_seconds = 2 }}

[[runners]]
use = "function"

[[runners.containers]]
id = "local"
call = {local}

[[runners.containers]]
id = "probe"
call = {probe}

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
server = "{server}"
max_wait_seconds = 20

[[plugins]]
use = "guardian"
"""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The length of a soak, and everything that follows from it."""

    minutes: float
    server: str = "hypercorn"
    plant: str = ""
    seed: int = 1

    @property
    def seconds(self) -> float:
        return 60 * self.minutes

    @property
    def kills(self) -> tuple[float, ...]:
        """Times at which the node is killed, all in the first third: what is judged afterwards is one long life."""
        count = 2 + int(self.minutes / 10)
        return tuple(self.seconds / 3 * number / count for number in range(1, count + 1))

    @property
    def judged_from(self) -> float:
        """Time from which on the last life is judged: after a quarter of it, in which caches and pools fill."""
        last = self.kills[-1]
        return last + (self.seconds - last) / 4

    @property
    def keep_seconds(self) -> float:
        """Time for which the node keeps finished jobs; a busy machine must have asked for them by then."""
        return min(120.0, max(30.0, self.seconds / 6))

    @property
    def idle_seconds(self) -> float:
        """Time after which an idle node must have given back everything, connections that are kept included."""
        return 25.0 if self.plant else 60.0

    @property
    def sample_seconds(self) -> float:
        return min(2.0, max(0.25, self.seconds / 600))

    @property
    def fault_seconds(self) -> float:
        """Pause between two faults."""
        return min(10.0, max(2.0, self.seconds / 40))

    def write(self, folder: Path, far: int, mark: str) -> Path:
        """Write the node file."""
        file = folder / "node.toml"
        functions = HERE / "functions.py"
        file.write_text(
            NODE_FILE.format(
                max_pending=600,
                keep_seconds=self.keep_seconds,
                log_bytes=16 * 1024,
                worker=json.dumps([sys.executable, str(HERE / "worker.py")]),
                plant=self.plant,
                mark=mark,
                far=far,
                local=json.dumps(f"{functions}:local"),
                probe=json.dumps(f"{functions}:probe"),
                server=self.server,
            )
        )
        return file
