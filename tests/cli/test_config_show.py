"""`nodekit config show`: the effective configuration, itself a node file, without secrets."""

import importlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from node_files import DOCKER, LIMITS, NODE_FILE
from planted import nodekit, plant

from nodekit import Node, Secret, load_node
from nodekit.cli.config.effective import HIDDEN, effective
from nodekit.cli.config.effective import shown as shown_as
from nodekit.cli.config.toml import toml
from nodekit.config.compose import NodeSettings

EVERY_TABLE = LIMITS.replace('[store]\nuse = "memory"\n', "") + NODE_FILE.partition("drain_seconds = 10")[2]
MARKED = """
from typing import Annotated
import msgspec
from nodekit import Provider, Secret
from nodekit_memory import MemoryStore

class Config(msgspec.Struct, forbid_unknown_fields=True):
    url: str = "redis://user:by-default@localhost"
    pin: Annotated[str, msgspec.Meta(extra={"secret": True})] = "1234"
    password: str = ""
    tokenizer: str = "words"
    several: list[str] = []

provider = Provider(Config, lambda config, file: MemoryStore())
"""


def shown(text: str, folder: Path) -> str:
    """Return a node file as `nodekit config show` prints it."""
    file = folder / "node.toml"
    file.write_text(text)
    return toml(effective(tomllib.loads(text), load_node(file).name))


def meaning(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the settings that the components and the node are built from."""
    built: list[Any] = []
    for provider in ("sqlite", "memory", "remote", "process", "asgi", "guardian", "docker"):
        patched = f"nodekit_{provider}.provider.build"
        monkeypatch.setattr(patched, recording(patched, built))
    file = folder / "node.toml"
    file.write_text(text)
    node: Node = load_node(file)
    monkeypatch.undo()
    return [built, node.name, node.limits]


def recording(patched: str, built: list[Any]) -> Any:
    build = importlib.import_module(patched.partition(".")[0]).provider.build

    def recorded(config: Any, file: Any) -> Any:
        built.append(plain(config))
        return build(config, file)

    return recorded


def plain(value: Any) -> Any:
    """Return a config as values that can be compared, without rules, which also contain explicit defaults."""
    match value:
        case msgspec.Struct():
            return {key: plain(one) for key, one in msgspec.structs.asdict(value).items() if key != "rules"}
        case Secret():
            return value.reveal()
        case Mapping():
            return {key: plain(one) for key, one in value.items()}
        case list() | tuple():
            return [plain(one) for one in value]
        case _:
            return value


@pytest.mark.parametrize("text", [NODE_FILE, DOCKER, LIMITS, EVERY_TABLE])
def test_it_is_a_node_file_that_means_the_same(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = shown(text, tmp_path)
    assert meaning(printed, tmp_path, monkeypatch) == meaning(text, tmp_path, monkeypatch)
    again = shown(printed, tmp_path)
    assert tomllib.loads(again) == tomllib.loads(printed)
    assert re.findall(r"^# by default:\n(?!# )", again, re.MULTILINE) == []  # every key with a value is now explicit


def test_every_default_is_there_and_told_from_what_the_file_says(tmp_path: Path) -> None:
    printed = shown('[store]\nuse = "memory"\n[node]\nconcurrency = 7\n', tmp_path)
    node = printed.partition("[node]\n")[2].partition("\n[store]")[0]
    said, _, defaults = node.partition("# by default:\n")
    assert said == "concurrency = 7\n"
    assert re.search(r'^name = "test_', defaults, re.MULTILINE)
    assert "max_pending = 10000\n" in defaults
    assert "# job_timeout_seconds: none\n" in defaults
    for key in NodeSettings.__struct_fields__:
        assert re.search(rf"^(# )?{key}( =|:)|^\[node\.{key}\]", node, re.MULTILINE), key


def test_keys_that_need_quotes_have_them(tmp_path: Path) -> None:
    assert '[node.clients."10.0.0.7"]\nmax_priority = 0\n' in shown(LIMITS, tmp_path)


SECRETS = """
[store]
use = "shelf"
pin = "open-2"
url = "redis://localhost/0"

[[runners]]
use = "docker"

[[runners.containers]]
id = "a"
image = "x"
bearer = { env = "BEARER" }
registry = { username = "me", password = { file = "password" } }

[runners.containers.env]
HF_TOKEN = "open-5"
OPENAI_API_KEY = "open-6"
PGPASSWORD = "open-7"
LEVEL = "debug"
GIVEN = { env = "BEARER" }
"""


def test_secrets_are_hidden_and_references_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "nodekit-shelf", {"stores": "shelf"}, MARKED)
    (tmp_path / "password").write_text("open-8")
    monkeypatch.setenv("BEARER", "open-9")
    (tmp_path / "node.toml").write_text(SECRETS)
    for options in ([], ["--json"]):
        done = nodekit(tmp_path, "config", "show", "node.toml", *options)
        assert (done.returncode, done.stderr) == (0, "")
        assert "open-" not in done.stdout
        tables = json.loads(done.stdout)["tables"] if options else tomllib.loads(done.stdout)
        assert tables["store"]["url"] == "redis://localhost/0"
        assert tables["store"]["tokenizer"] == "words"
        (container,) = tables["runners"][0]["containers"]
        assert container["bearer"] == {"env": "BEARER"}
        assert container["registry"] == {"username": "me", "password": {"file": "password"}}
        assert container["env"] == {
            "HF_TOKEN": HIDDEN, "OPENAI_API_KEY": HIDDEN, "PGPASSWORD": HIDDEN,
            "LEVEL": HIDDEN, "GIVEN": {"env": "BEARER"},
        }  # fmt: skip
    (tmp_path / "node.toml").write_text('[store]\nuse = "shelf"\n')
    printed = nodekit(tmp_path, "config", "show", "node.toml").stdout
    assert "1234" not in printed


def test_json_says_which_are_defaults(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(NODE_FILE)
    told = json.loads(nodekit(tmp_path, "config", "show", "node.toml", "--json").stdout)
    assert told["tables"]["store"] == {
        "use": "sqlite",
        "path": "jobs.db",
        "synchronous": "FULL",
        "group": 512,
        "min_free_bytes": 256 << 20,
    }
    assert {"store.group", "node.name", "runners[0].containers[0].retry.attempts"} <= set(told["defaults"])
    assert not {"store.path", "runners[0].containers[0].url", "node.concurrency"} & set(told["defaults"])


def test_a_file_of_another_format_is_shown_as_a_node_file(tmp_path: Path) -> None:
    config = {
        "containers": [{"id": "aa", "image": "x", "env": {"TOKEN": "open"}}],
        "docker": {"username": "u", "password": "open"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = nodekit(tmp_path, "config", "show", "config.json")
    assert done.returncode == 0, done.stderr
    assert "open" not in done.stdout
    [runner] = tomllib.loads(done.stdout)["runners"]
    [container] = runner["containers"]
    assert (runner["use"], container["registry"]["password"]) == ("docker", HIDDEN)


def test_a_file_that_does_not_compose_is_told_as_check_tells_it(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text('[store]\nuse = "sqlit"\n')
    told = nodekit(tmp_path, "config", "show", "node.toml")
    checked = nodekit(tmp_path, "check", "node.toml")
    assert (told.returncode, told.stdout, told.stderr) == (3, "", checked.stderr)


class Basic(msgspec.Struct, tag="basic"):
    user: str


class Bearer(msgspec.Struct, tag="bearer", rename="kebab"):
    the_value: Annotated[str, msgspec.Meta(extra={"secret": True})]


class Odd(msgspec.Struct):
    auth: Basic | Bearer
    pair: tuple[str, Annotated[str, msgspec.Meta(extra={"secret": True})]]


def test_what_is_marked_is_hidden_in_whatever_it_stands() -> None:
    value = {"auth": {"type": "bearer", "the-value": "s3cret"}, "pair": ["a", "s3cret"]}
    msgspec.convert(value, Odd)
    table = shown_as(msgspec.inspect.type_info(Odd), "odd", value, True).plain()
    assert table == {"auth": {"type": "bearer", "the-value": HIDDEN}, "pair": ["a", HIDDEN]}


@pytest.mark.parametrize(("key", "value"), [("password", "s3cret"), ("url", "https://me:s3cret@host/?token=s3cret")])
def test_nothing_is_guessed_to_be_a_secret(key: str, value: Any) -> None:
    assert shown_as(None, key, value, True) == value
