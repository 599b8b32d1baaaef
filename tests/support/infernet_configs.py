"""Files ``config.json`` of Infernet nodes: one with every key set, and random ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hypothesis import strategies as st

from nodekit import NodeTables, Secret

REGISTRY_PASSWORD, WALLET_KEY, BEARER = "correct horse", "0x" + "5ec4e7" * 10 + "beef", "battery staple"
SECRETS = (REGISTRY_PASSWORD, WALLET_KEY, BEARER)

CONTAINER: Mapping[str, Any] = {
    "id": "hello",
    "image": "example/hello:1",
    "url": "http://127.0.0.1:3101",
    "bearer": BEARER,
    "port": "3000",
    "external": "true",
    "gpu": False,
    "accepted_payments": {"0x0000000000000000000000000000000000000000": 10**20},
    "allowed_ips": ["127.0.0.1/8", "::1"],
    "allowed_addresses": ["0x" + "01" * 20],
    "allowed_delegate_addresses": ["0x" + "02" * 20],
    "description": "says hello",
    "command": "--bind=0.0.0.0:3000 --name 'two words'",
    "env": {"NUMBER": 3, "FLAG": True, "TEXT": 'quotes " and\nlines', "NOTHING": None},
    "generates_proofs": True,
    "volumes": ["data:/data:ro"],
}
"""All keys of a container."""
REDIS: Mapping[str, Any] = {"host": "redis", "port": 6379}


def full(
    *containers: Mapping[str, Any], managed: bool = True, port: int = 4000, redis: Mapping[str, Any] | None = REDIS
) -> dict[str, Any]:
    """Return a configuration with every key that Infernet 1.4 knows. Without a server, it has no key `redis`."""
    config = {
        "log": {"path": "infernet.log", "max_file_size": "100000", "backup_count": 3},
        "manage_containers": managed,
        "server": {"port": str(port), "rate_limit": {"num_requests": 40, "period": "3600"}},
        "chain": {
            "enabled": True,
            "rpc_url": "http://127.0.0.1:8545",
            "trail_head_blocks": 5,
            "registry_address": "0x" + "ab" * 20,
            "wallet": {
                "max_gas_limit": 5_000_000,
                "private_key": WALLET_KEY,
                "payment_address": "0x" + "de" * 20,
                "allowed_sim_errors": ["not enough balance"],
            },
            "snapshot_sync": {"sleep": 1.5, "batch_size": 200, "starting_sub_id": 1, "sync_period": 0.5},
        },
        "docker": {"username": "somebody", "password": REGISTRY_PASSWORD},
        "redis": redis,
        "forward_stats": True,
        "startup_wait": 1.0,
        "containers": [{**CONTAINER, **container} for container in containers or ({},)],
    }
    return config if redis else without(config, "redis")


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def written(folder: Path, config: Any, name: str = "config.json") -> Path:
    file = folder / name
    file.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return file


def revealed(value: Any) -> Any:
    """Return the value in a form that can be compared."""
    match value:
        case Secret():
            return ("secret", value.reveal())
        case dict():
            return {key: revealed(one) for key, one in value.items()}
        case list():
            return [revealed(one) for one in value]
        case _:
            return value


def followed(value: Any, environment: Mapping[str, str], files: Mapping[str, str] = MappingProxyType({})) -> Any:
    """Return the value like `revealed`, with references to the environment and to files resolved."""
    match value:
        case {"file": str(name), **rest} if not rest and name in files:
            return ("secret", files[name])
        case {"env": str(name), **rest} if not rest and name in environment:
            return ("secret", environment[name])
        case dict():
            return {key: followed(one, environment, files) for key, one in value.items()}
        case list():
            return [followed(one, environment, files) for one in value]
        case _:
            return value


def container(file: NodeTables, runner: int = 0, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = file.tables["runners"][runner]["containers"][number]
    return found


# -- random ones ----------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
"""Any text that UTF-8 can encode: quotes, line ends, control characters and other planes included."""
names = texts.filter(bool)
booleans = st.sampled_from([True, False, "true", "False", "1", "off"])
whole = st.integers(0, 2**70) | st.integers(0, 2**40).map(str)
ports = st.integers(1, 65535) | st.integers(1, 65535).map(str)
numbers = st.floats(0, 1e12) | st.integers(0, 10**6)
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
words = st.lists(texts, max_size=3)
addresses = st.ip_addresses().map(str) | st.sampled_from(["10.1.2.3/8", "::1/64", "0.0.0.0/0"])
commands = st.sampled_from(["", "run --all", "'a b' \"c d\"", '--x=\\"y\\"', "é\t☃"])


def some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw tables with any of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


containers = st.fixed_dictionaries(
    {"id": names, "image": names},
    optional={
        "url": texts,
        "bearer": texts,
        "port": ports,
        "external": booleans,
        "gpu": booleans,
        "accepted_payments": st.dictionaries(texts, whole, max_size=2),
        "allowed_ips": st.lists(addresses, max_size=3),
        "allowed_addresses": words,
        "allowed_delegate_addresses": words,
        "description": texts,
        "command": commands,
        "env": st.dictionaries(texts, values, max_size=4),
        "generates_proofs": booleans,
        "volumes": words,
        "nonsense": values,
    },
)
configs = some(
    log=some(path=names, max_file_size=whole, backup_count=whole),
    manage_containers=booleans,
    server=some(port=ports, rate_limit=some(num_requests=st.integers(1, 10**9), period=st.integers(1, 10**6))),
    chain=some(
        enabled=booleans,
        rpc_url=texts,
        trail_head_blocks=whole,
        registry_address=texts,
        wallet=some(max_gas_limit=whole, private_key=texts, payment_address=texts, allowed_sim_errors=words),
        snapshot_sync=some(sleep=numbers, batch_size=whole, starting_sub_id=whole, sync_period=numbers),
    ),
    docker=st.fixed_dictionaries({"username": texts, "password": texts}),
    redis=some(host=texts, port=ports, db=whole, username=texts, password=texts),
    forward_stats=booleans,
    startup_wait=numbers,
    containers=st.lists(containers, max_size=4),
    **{"un\nknown": values},
)
