"""The runner `process`: every container is a local process, started from a command and called over HTTP.

It gets a free loopback port in the environment variable ``PORT`` and must listen on it; it counts as running once it
answers HTTP. It is started again when it dies, and ended with its children when the node stops. When the node itself
is killed, Linux kills the process; *its* children are then on their own, and so are, always, those that left its
process group (daemons). It runs on asyncio, as the HTTP client does.
"""

from nodekit_process._config import ProcessConfig, ProcessContainer
from nodekit_process._runner import ProcessRunner, offer

__all__ = ["ProcessConfig", "ProcessContainer", "ProcessRunner", "offer"]
