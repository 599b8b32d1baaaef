"""Settings of a server that let it lose work: looked at when a node starts, and now and then while it runs."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import anyio

from nodekit import StoreFailed
from nodekit_redis._address import Command
from nodekit_redis._config import Durability
from nodekit_redis._engine import Engine
from nodekit_redis._errors import refused
from nodekit_redis._scripts import SCHEMA

logger = logging.getLogger("nodekit.store")
LEAST_VERSION = 7
SETTINGS = "appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy"
LONGEST_PAUSE_SECONDS = 60.0


class Facts(NamedTuple):
    """The facts about a server that matter. `settings` is None if it does not tell them."""

    info: Mapping[str, str]
    settings: Mapping[str, str] | None
    schema: str | None


def questions(key: Callable[[str], str]) -> Sequence[Command]:
    """Return the commands whose replies `understood` takes."""
    return ("INFO",), ("HGET", key("about"), "schema"), ("CONFIG", "GET", *SETTINGS)


def understood(replies: Sequence[Any]) -> Facts:
    """Return the facts of the replies. Raise `StoreFailed` for errors, but of CONFIG: hosted servers refuse that."""
    info, schema, pairs = replies
    for reply in (info, schema):
        if isinstance(reply, Exception):
            raise refused(reply)
    settings = None
    if not isinstance(pairs, Exception):
        settings = {pairs[n].decode(): pairs[n + 1].decode() for n in range(0, len(pairs), 2)}
    return Facts(parsed(info), settings, None if schema is None else schema.decode())


def parsed(info: bytes) -> Mapping[str, str]:
    """Return the fields of the reply to INFO."""
    fields = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in fields if colon}


def schema_problem(facts: Facts) -> str:
    """Return why this version cannot use the keys of the prefix. Empty: it can, or there are none yet."""
    if facts.schema in (None, str(SCHEMA)):
        return ""
    return f"the keys of this prefix have schema {facts.schema}, and this version of nodekit-redis needs {SCHEMA}"


def faults(facts: Facts, durability: Durability) -> Iterator[str]:
    """Yield what keeps a node from working on the server, each with the setting to change."""
    info = facts.info
    version = info.get("redis_version", "0")
    if int(version.partition(".")[0]) < LEAST_VERSION:
        yield f"Redis {version} is too old; use Redis {LEAST_VERSION}.0 or later, or Valkey"
    if info.get("role", "master") != "master":
        yield "this server is a replica, which takes no writes; name the primary in url"
    if problem := schema_problem(facts):
        yield problem
    policy = info.get("maxmemory_policy", (facts.settings or {}).get("maxmemory-policy", "noeviction"))
    if policy != "noeviction":
        yield f"maxmemory-policy is {policy}, so Redis may delete jobs; CONFIG SET maxmemory-policy noeviction"
    yield from _loses_too_much(facts, durability)


def _loses_too_much(facts: Facts, durability: Durability) -> Iterator[str]:
    cure = f"or accept the loss: durability = {{}} in the table of the store (it is {durability!r})"
    if durability == "none":
        return
    if facts.info.get("aof_enabled", "1") == "0":
        setting = "CONFIG SET appendonly yes"
        yield f"appendonly is no, so all jobs are lost if Redis ends; {setting}, {cure.format(repr('none'))}"
    elif facts.settings is not None:
        sync = facts.settings.get("appendfsync", "")
        if sync == "no" or (sync == "everysec" and durability == "always"):
            lost = "a second of" if sync == "everysec" else "half a minute of"
            accepted = repr("everysec" if sync == "everysec" else "none")
            setting = f"CONFIG SET appendfsync {durability}"
            yield f"appendfsync is {sync}, so {lost} acknowledged work may be lost; {setting}, {cure.format(accepted)}"


def warnings(facts: Facts, durability: Durability) -> Iterator[str]:
    """Yield what an operator has to know at each start."""
    if facts.settings is None and durability != "none":
        yield f"Redis does not tell its appendfsync (CONFIG is forbidden); make sure that it is {durability}"
    if durability == "everysec":
        yield "durability is everysec: if Redis ends, the last second of acknowledged work may be lost"
    if durability == "none":
        snapshots = (facts.settings or {}).get("save", "")
        kept = f"what changed since its last snapshot (save {snapshots})" if snapshots else "all jobs"
        if facts.info.get("aof_enabled") != "1":
            yield f"durability is none, and appendonly is no: if Redis ends, {kept} may be lost"


async def facts_of(engine: Engine) -> Facts:
    """Ask the server. Raise `StoreFailed`."""
    return understood(await engine.answers(questions(engine.key)))


class Checks:
    """The checks of one store."""

    def __init__(self, engine: Engine, durability: Durability, interval_seconds: float) -> None:
        self._engine = engine
        self._durability: Durability = durability
        self._interval_seconds = min(interval_seconds, LONGEST_PAUSE_SECONDS)
        self.problems: Sequence[str] = ()
        """Faults of the server now, although it had none at the start."""

    async def at_start(self) -> None:
        """Raise `StoreFailed` if a node cannot work on this server, and log what its operator has to know."""
        facts = await facts_of(self._engine)
        if found := list(faults(facts, self._durability)):
            raise StoreFailed("; and ".join(found))
        for warning in warnings(facts, self._durability):
            logger.warning("store redis: %s", warning)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await anyio.sleep(self._interval_seconds)
            try:
                found = list(faults(await facts_of(self._engine), self._durability))
            except StoreFailed:
                continue  # the calls of the node report it
            for problem in found:
                if problem not in self.problems:
                    logger.error("store redis: %s", problem)
            self.problems = found
