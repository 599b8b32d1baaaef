"""The runner `process`: every container is a local process that is started by a command and called over HTTP.

The process gets a free loopback port in the environment variable ``PORT`` and must listen on it. It counts as running
once it answers HTTP. It is restarted when it dies. It is ended with everything that it has started when the node ends,
however that happens: see `nodekit_process.supervisor`. Only Linux tells of processes that have left their group, such
as daemons; on other systems these are never ended. A connection is checked before it is used: its other end must be the
container's. The runner needs asyncio, because the HTTP client does.
"""

from nodekit_process._config import ProcessConfig, ProcessContainer
from nodekit_process._runner import ProcessRunner, provider

__all__ = ["ProcessConfig", "ProcessContainer", "ProcessRunner", "provider"]
