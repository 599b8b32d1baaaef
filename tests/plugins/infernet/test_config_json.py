"""Infernet's `config.json` as a node file: the result of each key, and the messages about it."""

from pathlib import Path
from typing import Any

import pytest
from infernet_configs import (
    BEARER,
    CONTAINER,
    REGISTRY_PASSWORD,
    SECRETS,
    WALLET_KEY,
    container,
    full,
    revealed,
    without,
    written,
)

from nodekit import CompositionError, NodeTables, load_node
from nodekit.config.formats import read_tables


@pytest.fixture
def read(tmp_path: Path) -> Any:
    return lambda config: read_tables(written(tmp_path, config))


def problems(tmp_path: Path, config: Any) -> dict[str, str]:
    with pytest.raises(CompositionError) as failed:
        load_node(written(tmp_path, config))
    return {problem.where: problem.text for problem in failed.value.problems}


def about(file: NodeTables, words: str) -> list[str]:
    return [notice for notice in file.notices if words in notice]


def remote(**more: Any) -> dict[str, Any]:
    """Make a file with one external container."""
    return {"manage_containers": False, "containers": [{"id": "hello", **more}]}


# -- what it becomes ------------------------------------------------------------------------------


def test_every_key_of_a_managed_container_becomes_one_of_docker_s(read: Any) -> None:
    assert revealed(container(read(full({"gpu": True})))) == {
        "id": "hello",
        "name": "hello",
        "image": "example/hello:1",
        "description": "says hello",
        "command": ["--bind=0.0.0.0:3000", "--name", "two words"],
        "env": {"NUMBER": ("secret", "3"), "FLAG": ("secret", "True"), "TEXT": ("secret", 'quotes " and\nlines')},
        "volumes": ["data:/data:ro"],
        "gpus": "all",
        "registry": {"username": "somebody", "password": ("secret", REGISTRY_PASSWORD)},
        "memory": "1024TiB",
        "pids": 32768,
        "capabilities": [
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "NET_BIND_SERVICE",
            "SETGID",
            "SETUID",
        ],
        "startup_seconds": 600.0,
        "external": True,
        "allowed_ips": ["127.0.0.0/8", "::1"],
        "generates_proofs": True,
    }


def test_the_tables_of_docker_are_what_its_runner_takes(tmp_path: Path) -> None:
    file = read_tables(written(tmp_path, full()))
    node = load_node(written(tmp_path, full()))
    assert list(node.containers) == ["hello"]
    assert node.containers["hello"].rules["generates_proofs"] is True
    assert file.tables["runners"][0]["use"] == "docker"


def test_every_key_of_another_container_becomes_one_of_remote_s(read: Any) -> None:
    assert revealed(container(read(full(managed=False)))) == {
        "id": "hello",
        "image": "example/hello:1",
        "description": "says hello",
        "url": "http://127.0.0.1:3101",
        "bearer": ("secret", BEARER),
        "external": True,
        "allowed_ips": ["127.0.0.0/8", "::1"],
        "generates_proofs": True,
    }


def test_a_container_without_a_url_is_on_this_machine_at_its_port(read: Any) -> None:
    assert container(read(remote(port=" 3005 ")))["url"] == "http://localhost:3005"
    assert container(read(remote()))["url"] == "http://localhost:3000"


def test_a_node_that_starts_its_containers_does_not_use_the_url_of_an_image_and_says_so(read: Any) -> None:
    file = read(full())
    assert [runner["use"] for runner in file.tables["runners"]] == ["docker"]
    assert about(file, "containers[0].url: not used")
    assert about(file, "containers[0].bearer: not used")


def test_but_one_without_an_image_is_called_at_its_url(read: Any) -> None:
    file = read(full({"image": "", "id": "far"}, {"id": "own"}))
    assert [runner["use"] for runner in file.tables["runners"]] == ["docker", "remote"]
    assert container(file, 1)["id"] == "far"
    assert file.origins["runners[1].containers[0]"] == "containers[0]"
    assert file.origins["runners[0].containers[0]"] == "containers[1]"


def test_the_rest_of_the_tables(read: Any) -> None:
    tables = without(read(full(port=4123)).tables, "runners")
    assert revealed(tables) == {
        "log": {"path": "infernet.log", "max_file_bytes": 100_000, "backups": 3},
        "store": {"use": "redis", "url": ("secret", "redis://redis:6379/0"), "durability": "none"},
        "transports": [
            {
                "use": "asgi",
                "bind": "0.0.0.0:4123",
                "profile": "infernet-1.4",
                "status_networks": ["127.0.0.0/8", "::1/128", "172.16.0.0/12"],
            }
        ],
        "plugins": [
            {"use": "guardian"},
            {"use": "ratelimit", "requests": 40, "period_seconds": 3600},
        ],
    }


def test_defaults_are_infernet_s(read: Any) -> None:
    assert read({}).tables == {
        "log": {"path": "infernet_node.log", "max_file_bytes": 2**30, "backups": 2},
        "store": {"use": "sqlite", "path": "jobs.db"},
        "runners": [],
        "transports": [
            {
                "use": "asgi",
                "bind": "0.0.0.0:4000",
                "profile": "infernet-1.4",
                "status_networks": ["127.0.0.0/8", "::1/128", "172.16.0.0/12"],
            }
        ],
        "plugins": [{"use": "guardian"}, {"use": "ratelimit", "requests": 60, "period_seconds": 60}],
    }
    defaulted = container(read({"containers": [{"id": "a", "image": "b"}]}))
    assert {"external": True, "name": "a", "image": "b"}.items() <= defaulted.items()
    assert defaulted.keys().isdisjoint(
        ["command", "env", "volumes", "gpus", "registry", "allowed_ips", "generates_proofs"]
    )


def test_nobody_named_means_everybody_as_there(tmp_path: Path) -> None:
    node = load_node(written(tmp_path, remote(allowed_ips=[])))
    assert "allowed_ips" not in node.containers["hello"].rules


@pytest.mark.parametrize(("word", "means"), [("true", True), ("Yes", True), ("1", True), ("off", False), (0, False)])
def test_booleans_may_be_texts(read: Any, word: Any, means: bool) -> None:
    assert container(read(remote(external=word)))["external"] is means


def test_null_is_as_good_as_nothing(read: Any) -> None:
    assert read({"docker": None, "log": None, "server": {"rate_limit": None}}).tables == read({}).tables


def test_credentials_that_are_empty_are_none(read: Any) -> None:
    config = full()
    config["docker"] = {"username": "", "password": ""}
    assert "registry" not in container(read(config))


@pytest.mark.parametrize(
    ("image", "is_sent"),
    [
        ("hello", True),
        ("hello:1", True),
        ("somebody/hello@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", True),
        ("docker.io/somebody/hello", True),
        ("index.docker.io/somebody/hello:1", True),
        ("ghcr.io/somebody/hello", False),
        ("docker.io.example/hello", False),
        ("docker.io:5000/hello", False),
        ("localhost/hello", False),
        ("127.0.0.1:5000/docker.io/hello", False),
        ("registry.example:443/somebody/hello:1", False),
    ],
)
def test_credentials_are_an_account_of_docker_hub_and_no_other_registry_gets_them(
    tmp_path: Path, read: Any, image: str, is_sent: bool
) -> None:
    config = full({"image": image}, {"id": "other", "image": "example/other"})
    file = read(config)
    assert ("registry" in container(file)) is is_sent
    assert "registry" in container(file, number=1)
    assert bool(about(file, f"containers[0].image: {image.split('/')[0]} does not get docker.username")) is not is_sent
    node = load_node(written(tmp_path, config))
    assert list(node.containers) == ["hello", "other"]


def test_an_id_that_a_file_of_another_node_has_too_is_another_node_s_name(tmp_path: Path) -> None:
    config = remote()
    (tmp_path / "other").mkdir()
    one, other = load_node(written(tmp_path, config)), load_node(written(tmp_path / "other", config))
    assert one.name != other.name


def test_what_waits_longer_than_the_limit_may_start_for_as_long(read: Any) -> None:
    config = full()
    config["startup_wait"] = "1200"
    assert container(read(config))["startup_seconds"] == 1200


# -- other packages -------------------------------------------------------------------------------


def installed(monkeypatch: pytest.MonkeyPatch, *providers: tuple[str, str]) -> None:
    monkeypatch.setattr("nodekit_infernet._draft._entry_points", lambda: iter(providers))


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, ("nodekit.plugins", "chain"))


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, ("nodekit.stores", "redis"))


SQLITE = {"use": "sqlite", "path": "jobs.db"}


def test_without_a_store_for_redis_jobs_are_kept_in_sqlite_and_it_is_said(
    read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch)
    file = read(full())
    assert file.tables["store"] == SQLITE
    assert about(file, "redis: not used, as no store for it is installed (nodekit-redis)")


@pytest.mark.usefixtures("redis")
def test_a_store_for_redis_is_not_used_where_the_file_names_no_server(read: Any) -> None:
    assert read(full(redis=None)).tables["store"] == SQLITE


@pytest.mark.usefixtures("redis")
@pytest.mark.parametrize(
    ("server", "url"),
    [
        ({"port": "6380"}, "redis://redis:6380/0"),
        ({"host": "::1", "db": 3}, "redis://[::1]:6379/3"),
        ({"host": "h", "password": "a@b/c:d%"}, "redis://:a%40b%2Fc%3Ad%25@h:6379/0"),
        ({"host": "h", "username": "me", "password": "x y"}, "redis://me:x%20y@h:6379/0"),
        ({"host": "h", "username": "me"}, "redis://me@h:6379/0"),
        ({"host": "h/1?db=2#"}, "redis://h%2F1%3Fdb%3D2%23:6379/0"),
    ],
)
def test_the_server_of_the_file_is_one_address(read: Any, server: dict[str, Any], url: str) -> None:
    store = read(full(redis=server)).tables["store"]
    assert revealed(store) == {"use": "redis", "url": ("secret", url), "durability": "none"}
    assert "password" not in repr(store)


@pytest.mark.usefixtures("redis")
def test_jobs_of_a_database_beside_the_file_are_told_to_be_left_behind(tmp_path: Path, read: Any) -> None:
    assert [line for line in read(full()).summary if "jobs.db" in line] == []
    (tmp_path / "jobs.db").touch()
    (told,) = [line for line in read(full()).summary if "jobs.db" in line]
    assert told.startswith("jobs of jobs.db beside this file are unknown to this node")


def test_a_server_that_cannot_be_one_is_a_problem_of_the_file(tmp_path: Path) -> None:
    assert problems(tmp_path, {"redis": {"host": "a..b"}}) == {
        "redis": "this is no URL of a server, or has a parameter that redis-py does not know"
    }
    assert list(problems(tmp_path, {"redis": {"port": 70000, "host": ""}})) == ["redis.host", "redis.port"]


@pytest.mark.usefixtures("chain")
def test_where_it_is_offered_the_chain_gets_its_settings(read: Any) -> None:
    tables = read(full()).tables
    assert revealed(tables["plugins"][2]) == {
        "use": "chain",
        "rpc_url": ["http://127.0.0.1:8545"],
        "trail_head_blocks": 5,
        "registry_address": "0x" + "ab" * 20,
        "wallet": {
            "max_gas_limit": 5_000_000,
            "private_key": ("secret", WALLET_KEY),
            "payment_address": "0x" + "de" * 20,
            "allowed_sim_errors": ["not enough balance"],
        },
        "snapshot_sync": {"sleep": 1.5, "batch_size": 200, "starting_sub_id": 1, "sync_period": 0.5},
    }
    assert (
        container(read(full())).items()
        >= {
            "accepted_payments": CONTAINER["accepted_payments"],
            "allowed_addresses": ["0x" + "01" * 20],
            "allowed_delegate_addresses": ["0x" + "02" * 20],
        }.items()
    )


@pytest.mark.usefixtures("chain")
def test_empty_texts_of_the_chain_are_settings_that_are_not_given(read: Any) -> None:
    config = full()
    config["chain"]["wallet"] |= {"payment_address": "", "private_key": ""}
    config["chain"]["rpc_url"] = ""
    chain = read(config).tables["plugins"][2]
    assert "rpc_url" not in chain
    assert set(chain["wallet"]) == {"max_gas_limit", "allowed_sim_errors"}


@pytest.mark.usefixtures("chain")
def test_where_it_is_offered_nothing_warns_of_a_chain_that_is_not_served(read: Any) -> None:
    file = read(full())
    assert not about(file, "chain.enabled")
    assert len(about(file, "chain: subscriptions are served by nodekit-chain")) == 1


@pytest.mark.usefixtures("chain")
def test_a_chain_that_is_not_enabled_is_not_used(read: Any) -> None:
    config = full()
    config["chain"]["enabled"] = False
    file = read(config)
    assert [plugin["use"] for plugin in file.tables["plugins"]] == ["guardian", "ratelimit"]
    assert "allowed_addresses" not in container(file)
    assert not about(file, "chain")


# -- what is said ---------------------------------------------------------------------------------


def test_notices_say_what_differs_each_once(read: Any) -> None:
    file = read({**full(), "log_path": "old.log", "chain": {**full()["chain"], "coordinator_address": "0x"}})
    assert len(set(file.notices)) == len(file.notices)
    for words in (
        "server.port: listens on all addresses (0.0.0.0:4000)",
        "server.rate_limit: 40 requests in 3600 s",
        "redis: jobs are kept there",
        "chain.enabled: no chain plugin is installed",
        "forward_stats: no telemetry is ever sent",
        "containers[0].port: 3000 is not kept",
        "containers[0].env: NOTHING is null",
        "log_path: unknown",
        "chain.coordinator_address: unknown",
    ):
        assert len(about(file, words)) == 1, words


def test_a_node_that_starts_sums_them_up_in_one_line_and_the_chain_comes_first(tmp_path: Path, read: Any) -> None:
    file = read(full())
    assert file.notices[0].startswith("chain.enabled: no chain plugin is installed")
    assert file.summary[0] == file.notices[0]
    (rest,) = file.summary[1:]
    assert rest.startswith(f"{len(file.notices) - 1} settings mean something else here than in Infernet")
    assert f"`nodekit check {tmp_path / 'config.json'}` lists them" in rest
    off_chain = read(without(full(), "chain"))
    assert [line.partition(" ")[2][:8] for line in off_chain.summary] == ["settings"]


def test_a_folder_that_cannot_be_written_is_told_with_places_for_jobs(
    tmp_path: Path, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the system's answer is given here; over a socket, another user tries it."""
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    file = read(full(redis=None))
    (told,) = [line for line in file.summary if "jobs cannot be kept in jobs.db" in line]
    assert str(tmp_path) in told
    assert "nodekit migrate FILE --output FOLDER/node.toml" in told


def test_there_are_few_where_little_differs(read: Any) -> None:
    assert len(read({"forward_stats": False}).notices) == 3


def test_no_notice_and_no_origin_shows_a_secret(read: Any) -> None:
    for config in (full(), full(managed=False), full({"env": {"TOKEN": "hidden words"}})):
        shown = repr(read(config)).replace("'TOKEN': 'hidden words'", "")
        assert [secret for secret in (*SECRETS, "hidden words") if secret in shown] == []


# -- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "where", "words"),
    [
        ({"server": {"port": 65536}}, "server.port", "<= 65535"),
        ({"server": {"port": "many"}}, "server.port", "expected a whole number, got a text"),
        ({"server": {"rate_limit": {"num_requests": 0}}}, "server.rate_limit.num_requests", ">= 1"),
        ({"server": []}, "server", "expected an object"),
        ({"containers": {}}, "containers", "expected a list"),
        ({"containers": [5]}, "containers[0]", "expected an object"),
        ({"containers": [{}] * 1001}, "containers", "has 1001 entries, at most 1000 are read"),
        ({"containers": [{"image": "a"}]}, "containers[0].id", "is missing"),
        ({"containers": [{"id": "ab"}]}, "containers[0].image", "is missing"),
        ({"containers": [{"id": "", "image": "a"}]}, "containers[0].id", "length >= 1"),
        (remote(external="perhaps"), "containers[0].external", "expected true or false"),
        (remote(allowed_ips=["10.0.0.0/8", "x"]), "containers[0].allowed_ips[1]", "'x' does not appear to be"),
        (remote(allowed_ips=["10.0.0.0/8", 5]), "containers[0].allowed_ips[1]", "expected a text"),
        (remote(port=0), "containers[0].port", ">= 1"),
        (remote(url="example.org:3000"), "containers[0].url", "expected http(s)://"),
        (remote(command="a 'b"), "containers[0].command", "No closing quotation"),
        (remote(command=["a", "b"]), "containers[0].command", "expected a text, got a list"),
        (remote(bearer=5), "containers[0].bearer", "expected a text"),
        (remote(accepted_payments={"0x": "much"}), "containers[0].accepted_payments[...]", "expected a whole number"),
        ({"docker": {"username": "a"}}, "docker.password", "is missing"),
        ({"docker": {"username": "a", "password": 1234567}}, "docker.password", "expected a text"),
        ({"chain": {"wallet": {"private_key": 5}}}, "chain.wallet.private_key", "expected a text"),
        ({"log": {"max_file_size": -1}}, "log.max_file_size", ">= 0"),
        ({"startup_wait": "soon"}, "startup_wait", "expected a number"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_key_path_in_the_json(
    tmp_path: Path, change: dict[str, Any], where: str, words: str
) -> None:
    found = problems(tmp_path, change)
    assert list(found) == [where]
    assert words in found[where]
    assert "1234567" not in str(found)


def test_what_the_parts_object_to_has_the_key_path_of_the_json_too(tmp_path: Path) -> None:
    config = {
        "containers": [{"id": "ab", "image": "b", "volumes": ["c"], "env": {"d=e": "f"}}, {"id": "ab", "image": "g"}]
    }
    found = problems(tmp_path, config)
    assert set(found) == {"containers[0].volumes[0]", "containers[0].env", "containers[1].id"}


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    config = {"server": {"port": -1}, "startup_wait": "x", "containers": [{"id": "ab", "external": "x", "gpu": "z"}]}
    assert set(problems(tmp_path, config)) == {
        "server.port",
        "startup_wait",
        "containers[0].external",
        "containers[0].gpu",
        "containers[0].image",
    }


def test_one_run_tells_the_problems_of_reading_of_translating_and_of_composing(tmp_path: Path) -> None:
    """Bad entries keep their numbers, and what one problem causes is no problem of its own."""
    config = {
        "server": {"port": "x"},
        "docker": {"username": "somebody"},
        "containers": [
            {"image": "b", "command": "a 'b"},
            "nonsense",
            {"id": "ab", "image": "b", "volumes": ["c"], "allowed_ips": ["10.0.0.300"]},
            {"id": "ab", "image": "b"},
            {"id": "a b", "image": "b"},
            {"id": "far", "url": "ftp://b"},
        ],
    }
    assert set(problems(tmp_path, config)) == {
        "server.port",
        "docker.password",
        "containers[0].id",
        "containers[0].command",
        "containers[1]",
        "containers[2].volumes[0]",
        "containers[2].allowed_ips[0]",
        "containers[3].id",
        "containers[4].id",
        "containers[5].url",
    }


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"server": {"port": 4000}, "server": {}}', ["server"]),
        ('{"server": {"port": 4000, "port": 4000}}', ["server.port"]),
        (
            '{"containers": [{"id": "ab", "image": "b"}, {"id": "c", "id": "d", "id": "e", "image": "b"}]}',
            ["containers[1].id"],
        ),
        ('{"unknown": {"a": [[1, {"b": {"c": 1, "c": {}}}]], "d": 1, "d": 2}}', ["unknown.d", "unknown.a[0][1].b.c"]),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_its_place(tmp_path: Path, text: str, where: list[str]) -> None:
    assert problems(tmp_path, text) == dict.fromkeys(where, "this key is there twice; remove one of the two")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n  // a note\n  "server": {}\n}', "line 2: a comment; JSON has none, remove it"),
        ('{"server": {}} # a note', "line 1: a comment"),
        ('{"server": {}, /* a note */ "redis": {}}', "line 1: a comment"),
        ('{"containers": [\n  {"id": "ab", "image": "b"},\n]}', "a comma behind the last value; remove it"),
        ('{"server": {"port": 4000,}}', "a comma behind the last value"),
        ("{'server': {}}", 'double quotes: "…"'),
        ('{"server": {}', "line 1: Expecting"),
    ],
)
def test_what_is_json_only_almost_is_told_with_its_line_and_the_cure(tmp_path: Path, text: str, words: str) -> None:
    assert words in str(problems(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"a": NaN}',
        b'{"log": {"path": "\\ud800"}}',
        b'{"log": {"path": "\xff"}}',
        b"[" * 100_000,
        b'{"docker": {"username": "a", "password": "secret" "b"}}',
    ],
)
def test_what_is_no_json_object_is_told_without_showing_it(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CompositionError, match=r"JSON|expected an object") as failed:
        load_node(tmp_path / "config.json")
    assert "secret" not in str(failed.value)
