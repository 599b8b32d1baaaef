"""Files such as people have: as the documentation of Infernet shows them, as installers write them, and older ones."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from http_api import Api, free_port
from infernet_configs import written
from served import nodekit, serve

from nodekit import CompositionError, load_node
from nodekit.config.formats import read_tables
from nodekit_infernet._migration import migrated, write

HELLO = {
    "id": "hello-world",
    "image": "somebody/hello-world:latest",
    "external": True,
    "port": "3000",
    "allowed_delegate_addresses": [],
    "allowed_addresses": [],
    "allowed_ips": [],
    "command": "--bind=0.0.0.0:3000 --workers=2",
    "env": {},
    "volumes": [],
}
WALLET = {"max_gas_limit": 4000000, "private_key": "0x0", "allowed_sim_errors": []}
CHAIN = {"enabled": True, "trail_head_blocks": 3, "rpc_url": "https://rpc.example", "registry_address": "0x0"}

SAMPLES: dict[str, Any] = {
    "empty": {},
    "sample of an old version": {
        "log_path": "infernet_node.log",
        "manage_containers": True,
        "server": {"port": 4000},
        "chain": {"enabled": True, "trail_head_blocks": 5, "coordinator_address": "0x0", "wallet": WALLET},
        "docker": {"username": "username", "password": "password"},
        "redis": {"host": "redis", "port": 6379},
        "forward_stats": True,
        "startup_wait": 1.0,
        "containers": [HELLO],
    },
    "of an installer": {
        "log_path": "infernet_node.log",
        "server": {"port": 4000, "rate_limit": {"num_requests": 100, "period": 100}},
        "chain": {
            **CHAIN,
            "wallet": WALLET,
            "snapshot_sync": {"sleep": 3, "batch_size": 10000, "starting_sub_id": 180000, "sync_period": 30},
        },
        "startup_wait": 1.0,
        "redis": {"host": "redis", "port": 6379},
        "forward_stats": True,
        "containers": [{**HELLO, "accepted_payments": {}, "generates_proofs": False}],
    },
    "only what must be there": {"containers": [{"id": "hello-world", "image": "somebody/hello-world"}]},
    "with a GPU, a volume and a model": {
        "containers": [
            {
                **HELLO,
                "gpu": True,
                "volumes": ["models:/models:ro", "./cache:/cache"],
                "env": {"MODEL_SOURCE": 1, "LOAD_ARGS": '{"repo_id": "a/b"}', "USE_JIT": "false", "WORKERS": 2.5},
            }
        ],
        "startup_wait": "600.0",
    },
    "two containers of which only one is for clients": {
        "containers": [
            HELLO,
            {**HELLO, "id": "inner_service-1.0.0", "external": False, "port": 3001, "allowed_ips": ["10.0.0.0/8"]},
        ],
    },
    "texts for numbers and words for booleans": {
        "manage_containers": "true",
        "server": {"port": "4000", "rate_limit": {"num_requests": "60", "period": "60"}},
        "startup_wait": "5",
        "containers": [{**HELLO, "external": "True", "gpu": "no", "generates_proofs": 0}],
    },
    "payments as texts": {
        "chain": {**CHAIN, "enabled": False},
        "containers": [
            {**HELLO, "accepted_payments": {"0x0000000000000000000000000000000000000000": "1000000000000000000"}}
        ],
    },
    "images of several registries": {
        "docker": {"username": "somebody", "password": "a token"},
        "containers": [HELLO, {**HELLO, "id": "other", "image": "ghcr.io/somebody/other:2"}],
    },
    "placeholders for credentials that are not needed": {
        "docker": {"username": "", "password": ""},
        "containers": [HELLO],
    },
    "nulls for whatever is not used": {
        "docker": None,
        "chain": {"enabled": False, "wallet": None, "rpc_url": None},
        "log": None,
        "containers": [{**HELLO, "description": None, "env": None, "volumes": None, "bearer": None}],
    },
    "containers of a compose file": {
        "manage_containers": False,
        "containers": [
            {**HELLO, "url": "http://hello:3000", "bearer": "sesame"},
            {**HELLO, "id": "by-port", "port": 3005},
        ],
    },
    "a log of its own": {"log": {"path": "logs.txt", "max_file_size": 1000000, "backup_count": "5"}, "containers": []},
    "a period with a point": {"server": {"rate_limit": {"num_requests": 60, "period": 60.0}}},
}


@pytest.mark.parametrize("name", SAMPLES)
def test_each_is_checked_and_gives_a_node_file_of_the_same_node(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, SAMPLES[name])
    write(migrated(file, "node.secrets"), tmp_path / "node.toml")
    one, other = load_node(file), load_node(tmp_path / "node.toml")
    assert list(one.containers) == list(other.containers)
    assert [dict(c.rules) for c in one.containers.values()] == [dict(c.rules) for c in other.containers.values()]
    assert read_tables(tmp_path / "node.toml").tables.keys() == read_tables(file).tables.keys()


@pytest.mark.parametrize(
    ("config", "wheres"),
    [
        ({"containers": [{"image": "a/b"}, HELLO, HELLO]}, {"containers[0].id", "containers[2].id"}),
        ({"containers": [{**HELLO, "id": "Hello World"}]}, {"containers[0].id"}),
        ({"containers": [{**HELLO, "volumes": ["data"]}, {**HELLO, "id": "b", "image": ""}]},
         {"containers[0].volumes[0]", "containers[1].id", "containers[1].image"}),
        ({"containers": {"hello-world": HELLO}, "server": {"port": "four"}}, {"containers", "server.port"}),
        ({"docker": {"username": "a"}, "containers": [{**HELLO, "port": 0}]},
         {"docker.password", "containers[0].port"}),
        ({"manage_containers": False, "containers": [{**HELLO, "url": "hello:3000"}]}, {"containers[0].url"}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_the_keys_that_people_know(tmp_path: Path, config: Any, wheres: set[str]) -> None:
    with pytest.raises(CompositionError) as failed:
        migrated(written(tmp_path, config))
    assert {problem.where for problem in failed.value.problems} == wheres


@pytest.mark.anyio
async def test_the_way_from_an_old_file_to_a_served_node(tmp_path: Path) -> None:
    """By the commands: check, serve, migrate, check and serve again."""
    config = {**SAMPLES["containers of a compose file"], "server": {"port": free_port()}}
    file = written(tmp_path, json.dumps(config, indent=2))

    async def told(file: Path) -> Any:
        async with serve(file, "--bind", "127.0.0.1:0") as (_, api):
            return await containers(api)

    checked = await anyio.to_thread.run_sync(nodekit, "check", file)
    assert (checked.returncode, "ok (2 containers)" in checked.stdout) == (0, True)
    before = await told(file)
    output = tmp_path / "node.toml"
    done = await anyio.to_thread.run_sync(nodekit, "migrate", file, "--output", output)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (await anyio.to_thread.run_sync(nodekit, "check", output)).returncode == 0
    assert await told(output) == before


async def containers(api: Api) -> Any:
    return (await api.get("/openapi.json")).json["info"], (await api.get("/info")).json["chain"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
