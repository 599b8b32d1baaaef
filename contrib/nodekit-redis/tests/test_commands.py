"""Commands that the store uses: Redis 7.0 has all of them, and so has Valkey, which began as Redis 7.2."""

import re
from importlib.resources import files

from redis_server import RedisServer

PACKAGE = files("nodekit_redis")
IN_SCRIPTS = re.compile(r"call\('([A-Z]+)'")
IN_MODULES = re.compile(r'\("([A-Z]{3,}(?:_RO)?)"')


def used() -> set[str]:
    """Return the commands that scripts and modules name."""
    scripts = [path.read_text("utf-8") for path in (PACKAGE / "lua").iterdir()]
    paths = [path for path in PACKAGE.iterdir() if path.name.endswith(".py") and path.name != "_errors.py"]
    modules = [path.read_text("utf-8") for path in paths]
    found = {name for text in scripts for name in IN_SCRIPTS.findall(text)}
    return found | {name for text in modules for name in IN_MODULES.findall(text)} | {"EVALSHA", "EVALSHA_RO"}


def test_each_command_is_one_that_redis_7_0_has(redis_server: RedisServer) -> None:
    names = used()
    assert {"ZADD", "HRANDFIELD", "MULTI", "SUBSCRIBE", "SCRIPT", "INFO"} <= names
    for name in sorted(names - {"SENTINEL"}):  # a command of Sentinels
        told = redis_server.call("COMMAND", "DOCS", name.lower())
        since = re.search(rb"since\r\n\$\d+\r\n(\d+)\.(\d+)", told)
        assert since is not None, f"{name} is no command of this server"
        assert (int(since[1]), int(since[2])) <= (7, 0), name
