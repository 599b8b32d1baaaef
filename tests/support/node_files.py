"""Node files that several tests use."""

from pathlib import Path

NODE_FILE = """
[node]
concurrency = 64
max_pending = 10000
drain_seconds = 10

[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "remote"

[[runners.containers]]
id = "echo-a"
url = "http://127.0.0.1:3101"
external = true
description = "an echo"
timeout_seconds = 180

[[runners]]
use = "process"

[[runners.containers]]
id = "upper"
command = ["python3", "upper.py"]
external = false
allowed_ips = ["127.0.0.0/8", "::1"]

[[transports]]
use = "asgi"
bind = "127.0.0.1:4000"

[[plugins]]
use = "guardian"
"""

DOCKER = """
[store]
use = "memory"

[[runners]]
use = "docker"

[[runners.containers]]
id = "a"
image = "x:1"
gpus = "all"
env = { PLAIN = { env = "HOME" } }
volumes = ["./data:/data"]
retry = { attempts = 3, statuses = [503] }
"""

LIMITS = """
[node]
name = "hello"
queue_timeout_seconds = inf
drain_seconds = 3

[node.clients."10.0.0.7"]
max_priority = 0

[log]
path = "node.log"

[store]
use = "memory"
"""

SLOW = """
import anyio, os, pathlib

async def slow(data):
    pathlib.Path(data["started"]).touch()
    while not pathlib.Path(data["go"]).exists():
        await anyio.sleep(0.01)
    return {"done": True}
"""

SERVED = """
[node]
drain_seconds = 60

[store]
use = "sqlite"
path = "jobs.db"

[[runners]]
use = "function"

[[runners.containers]]
id = "slow"
call = "slow.py:slow"

[[transports]]
use = "asgi"
bind = "127.0.0.1:0"
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "node.toml"
    file.write_text(text)
    return file


def changed(old: str, new: str, text: str = NODE_FILE) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)
