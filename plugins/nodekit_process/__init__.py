"""The runner `process`: every container is a local process that is started by a command and called over HTTP.

The process gets a free loopback port in the environment variable ``PORT`` and must listen on it. It counts as running
once it answers HTTP. It is restarted when it dies, and ended with its children when the node stops. If the node itself
is killed, Linux kills the process, but not its children. Children that have left its process group (daemons) are never
ended. The runner needs asyncio, because the HTTP client does.
"""

from nodekit_process._config import ProcessConfig, ProcessContainer
from nodekit_process._runner import ProcessRunner, provider

__all__ = ["ProcessConfig", "ProcessContainer", "ProcessRunner", "provider"]
