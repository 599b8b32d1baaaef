"""The state of the server for operators: its memory, what it keeps on a disk, and how far replicas are behind."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import anyio

from nodekit import StoreFailed
from nodekit_redis._address import BROKEN, Address, Command, close
from nodekit_redis._checks import Facts, faults, questions, understood
from nodekit_redis._config import RedisConfig
from nodekit_redis._errors import CURE, said
from nodekit_redis._line import next_reply
from nodekit_redis._scripts import Scripts


async def server_facts(config: RedisConfig) -> dict[str, str | int]:
    """Ask the server, on a connection of its own. Raise `StoreFailed`."""
    key = Scripts(config.prefix).key
    commands = [*questions(key), ("PUBSUB", "NUMSUB", key("news"))]
    *answers, listeners = await _answers(config, commands)
    facts = understood(answers)
    heard = {} if isinstance(listeners, Exception) else {"listeners": int(listeners[1])}
    attention = "; and ".join(faults(facts, config.durability))
    return {
        **described(facts),
        "prefix": config.prefix,
        **heard,
        **({"attention": attention} if attention else {}),
    }


async def _answers(config: RedisConfig, commands: Sequence[Command]) -> list[Any]:
    """Return the replies to commands; errors of the server are among them."""
    seconds = config.connect_seconds if config.call_seconds is None else config.call_seconds
    try:
        connection = await Address(config).connect()
        try:
            with anyio.fail_after(seconds):
                await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                return [await next_reply(connection) for _ in commands]
        finally:
            await close(connection)
    except (*BROKEN, TimeoutError) as error:
        raise StoreFailed(f"cannot reach Redis: {said(error)}; {CURE}") from error


def described(facts: Facts) -> dict[str, str | int]:
    """Return what operators look at. Settings that the server does not tell are left out."""
    info, settings = facts.info, facts.settings or {}
    name = info.get("server_name", "redis")
    limit = int(info.get("maxmemory", 0))
    return {
        "server": f"{name} {info.get(f'{name}_version', info.get('redis_version', '?'))}",
        "role": info.get("role", "?"),
        "schema_version": int(facts.schema or 0),
        "used_bytes": int(info.get("used_memory", 0)),
        "peak_bytes": int(info.get("used_memory_peak", 0)),
        "most_bytes": limit or "no maxmemory",
        "maxmemory_policy": info.get("maxmemory_policy", "?"),
        "evicted_keys": int(info.get("evicted_keys", 0)),
        **_persistence(info, settings),
        **_replication(info),
        "connections": int(info.get("connected_clients", 0)),
        "rejected_connections": int(info.get("rejected_connections", 0)),
    }


def _persistence(info: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str | int]:
    told = {name: settings[name] for name in ("appendfsync", "save") if settings.get(name)}
    return {
        "appendonly": "yes" if info.get("aof_enabled") == "1" else "no",
        **told,
        "last_append": info.get("aof_last_write_status", "?"),
        "delayed_syncs": int(info.get("aof_delayed_fsync", 0)),
        "last_snapshot": info.get("rdb_last_bgsave_status", "?"),
        "changes_since_snapshot": int(info.get("rdb_changes_since_last_save", 0)),
    }


def _replication(info: Mapping[str, str]) -> dict[str, str | int]:
    offset, replicas = int(info.get("master_repl_offset", 0)), list(_replicas(info))
    return {
        "replicas": len(replicas),
        "replicas_online": sum(one.get("state") == "online" for one in replicas),
        "replication_lag_bytes": max((offset - int(one.get("offset", 0)) for one in replicas), default=0),
        "replication_lag_seconds": max((int(one.get("lag", 0)) for one in replicas), default=0),
    }


def _replicas(info: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    for number in range(int(info.get("connected_slaves", 0))):
        fields = info.get(f"slave{number}", "").split(",")
        yield dict(field.split("=", 1) for field in fields if "=" in field)
