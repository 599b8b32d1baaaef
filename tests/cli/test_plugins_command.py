"""`nodekit plugins`: from metadata alone, the providers of installed packages, and what one of them is."""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from pages import built_in
from planted import LEAVES_A_MARK, STORE, imported, nodekit, nodekit_elsewhere, plant

from nodekit import Provider, StreamingRunner
from nodekit.cli.config.field_docs import field_docs, summary
from nodekit.cli.config.key_texts import keys_of
from nodekit.cli.plugins.provider_details import portrait
from nodekit.config.providers import provided
from nodekit_docker import DockerContainer
from nodekit_remote import StartedContainer

MARKED = LEAVES_A_MARK + STORE
GUARD = '''
"""The plugin `door`: nobody comes in."""
import msgspec
from nodekit import Provider, Refusal

class DoorConfig(msgspec.Struct, forbid_unknown_fields=True):
    pass

class DoorRules(msgspec.Struct, forbid_unknown_fields=True):
    """Locks.

    - `locked`: True if it is.
    """

    locked: bool = True

class Door:
    """Keeps
    everybody out.

    Really."""

    container_rules = DoorRules

    async def nodekit_admit(self, request):
        raise Refusal("Closed")

    def nodekit_observe(self, event):
        pass

def build(config, file):
    return Door()

provider = Provider(DoorConfig, build, container=DoorRules)
'''
METADATA = """Metadata-Version: 2.1
Name: nodekit-door
Version: 2.5
Summary: A door.
Project-URL: Source, https://example.org/source
Project-URL: Homepage, https://example.org/door
"""


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    told = json.loads(nodekit(folder, "plugins", "--json").stdout)
    return {f"{one['kind']}:{one['name']}:{one['distribution']}": one for one in told["entries"]}


def test_everything_that_is_installed_is_a_line_and_nothing_is_imported(tmp_path: Path) -> None:
    groups = ("stores", "runners", "transports", "pipelines", "plugins", "formats", "commands", "doctor")
    plant(tmp_path, "nodekit-shelf", dict.fromkeys(groups, "shelf"), MARKED, version="1.5")
    done = nodekit(tmp_path, "plugins")
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = [line.split() for line in done.stdout.splitlines()]
    assert head == ["KIND", "NAME", "DISTRIBUTION", "VERSION"]
    kinds = ("store", "runner", "transport", "pipeline", "plugin", "format", "command", "check")
    assert [line for line in lines if "nodekit-shelf" in line] == [
        [kind, "shelf", "nodekit-shelf", "1.5"] for kind in kinds
    ]
    ours = {(kind, name) for kind, name, distribution, _ in lines if distribution == "nodekit-compute"}
    assert {(entry.group.removeprefix("nodekit.").removesuffix("s"), entry.name) for entry in built_in()} <= ours
    assert {("format", "json"), ("command", "job"), ("check", "docker")} <= ours
    assert listed(tmp_path)["store:shelf:nodekit-shelf"] == {
        "kind": "store", "name": "shelf", "distribution": "nodekit-shelf", "version": "1.5",
        "points_to": "nodekit_shelf:provider",
    }  # fmt: skip
    assert imported(tmp_path) == set()


def test_what_is_broken_is_listed_with_the_reason_and_nothing_is_imported(tmp_path: Path) -> None:
    plant(tmp_path, "nodekit-shelf", {"stores": "shelf"}, MARKED)
    plant(tmp_path, "nodekit-other", {"stores": "shelf", "plugins": "fine"}, MARKED)
    plant(tmp_path, "nodekit-gone", {"runners": "gone"}, None)
    deep = "[nodekit.runners]\ndeep = nodekit_shelf.deeper.still:provider\n"
    plant(tmp_path, "nodekit-deep", deep, None)
    plant(tmp_path, "nodekit-nameless", {"plugins": "nameless"}, MARKED, metadata="Metadata-Version: 2.1\n")
    plant(tmp_path, "nodekit-torn", "[nodekit.stores]\ntorn\n", None)
    found = listed(tmp_path)
    for one, other in (("shelf", "other"), ("other", "shelf")):
        text = f"nodekit-{other} 1.0 provides that name too; uninstall all but one"
        assert found[f"store:shelf:nodekit-{one}"]["broken"] == text
    assert "broken" not in found["plugin:fine:nodekit-other"]
    text = "its module nodekit_gone does not exist; reinstall or uninstall nodekit-gone"
    assert found["runner:gone:nodekit-gone"]["broken"] == text
    assert "nodekit_shelf.deeper.still does not exist" in found["runner:deep:nodekit-deep"]["broken"]
    assert "no name" in found["plugin:nameless:None"]["broken"]
    done = nodekit(tmp_path, "plugins")
    broken = [line for line in done.stdout.splitlines() if line.startswith("broken: ")]
    assert len(broken) == 6
    assert any("nodekit-torn: its entry points cannot be read" in line for line in broken)
    assert imported(tmp_path) == set()


# -- one of them ----------------------------------------------------------------------------------


def test_show_imports_the_one_that_is_meant_and_says_what_it_is(tmp_path: Path) -> None:
    plant(tmp_path, "nodekit-door", {"plugins": "door"}, LEAVES_A_MARK + "print('noise')\n" + GUARD, metadata=METADATA)
    plant(tmp_path, "nodekit-shelf", {"stores": "shelf"}, MARKED)
    done = nodekit(tmp_path, "plugins", "show", "door")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "plugin door: Keeps everybody out.",
        "  from nodekit-door 2.5: A door.",
        "  see https://example.org/door",
        f"  module nodekit_door, {tmp_path / 'nodekit_door.py'}",
        "  hooks: nodekit_admit, nodekit_observe",
        "",
        "settings that it reads from containers:",
        "  locked: true or false; default true",
        "      True if it is.",
    ]
    assert imported(tmp_path) == {"nodekit_door"}
    told = json.loads(nodekit(tmp_path, "plugins", "show", "door", "--json").stdout)
    assert told["hooks"] == ["nodekit_admit", "nodekit_observe"]
    assert told["container_keys"] == [
        {"name": "locked", "type": "true or false", "default": "true", "text": "True if it is."}
    ]


@pytest.mark.parametrize("entry", built_in(), ids=lambda entry: entry.name)
def test_every_built_in_provider_is_shown_whole(entry: Any) -> None:
    kind = entry.group.removeprefix("nodekit.").removesuffix("s")
    provider: Provider[Any] = entry.load()
    shown = portrait(kind, entry)
    assert shown.text
    assert shown.distribution == "nodekit-compute"
    assert Path(shown.file or "").exists()
    names = {key.name for key in (*shown.keys, *shown.container_keys)}
    structs = [provider.config, *([provider.container] if provider.container else [])]
    fields = {name for struct in structs for name in struct.__struct_fields__} - {"containers", "rules"}
    assert names == fields


def test_hooks_and_capabilities_are_those_of_what_is_built() -> None:
    def shown(kind: Any, name: str) -> Any:
        (entry,) = provided(kind)[name]
        return portrait(kind, entry)

    assert list(shown("plugin", "guardian").hooks) == ["nodekit_admit"]
    assert list(shown("plugin", "ratelimit").hooks) == ["nodekit_limit"]
    assert StreamingRunner.__name__ in shown("runner", "docker").capabilities
    assert list(shown("runner", "remote").capabilities) == [
        "DescribingRunner",
        "NamingRunner",
        "PooledRunner",
        "StreamingRunner",
    ]
    assert list(shown("runner", "function").capabilities) == ["InProcessRunner", "NamingRunner", "StreamingRunner"]
    of_memory = ["ArchivedStore", "EndingStore", "PagingStore", "StoringStore"]
    assert list(shown("store", "memory").capabilities) == of_memory
    assert {"BackupStore", "CheckedStore", "DiskStore", "PagingStore", "VerifyingStore"} <= set(
        shown("store", "sqlite").capabilities
    )


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise RuntimeError('half\\ninstalled')", "RuntimeError: half installed"),
        (None, "its module nodekit_shelf does not exist"),
    ],
)
def test_one_that_is_broken_is_1_with_the_reason_and_the_cure_on_a_line(
    tmp_path: Path, code: str | None, words: str
) -> None:
    plant(tmp_path, "nodekit-shelf", {"stores": "shelf"}, code)
    done = nodekit(tmp_path, "plugins", "show", "shelf")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("nodekit: store 'shelf' of nodekit-shelf 1.0")
    assert words in line
    assert "reinstall" in line


def test_a_name_of_several_kinds_or_of_nothing_is_a_mistake_of_the_command_line(tmp_path: Path) -> None:
    plant(tmp_path, "nodekit-shelf", {"stores": "shelf", "formats": "shelf", "doctor": "shelf"}, STORE)
    done = nodekit(tmp_path, "plugins", "show", "shelf")
    assert (done.returncode, "is format and store; say which: --kind format" in done.stderr) == (2, True)
    for arguments in (["store:shelf"], ["shelf", "--kind", "store"]):
        assert nodekit(tmp_path, "plugins", "show", *arguments).stdout.startswith("store shelf: ")
    done = nodekit(tmp_path, "plugins", "show", "shlef")
    assert (done.returncode, "did you mean 'shelf'?" in done.stderr) == (2, True)
    plant(tmp_path, "nodekit-other", {"stores": "shelf"}, STORE)
    done = nodekit(tmp_path, "plugins", "show", "store:shelf")
    assert (done.returncode, "nodekit-other 1.0, nodekit-shelf 1.0" in done.stderr) == (1, True)


# -- all of them ----------------------------------------------------------------------------------


def test_check_imports_each_and_goes_on_after_one_that_fails(tmp_path: Path) -> None:
    plant(tmp_path, "nodekit-aaa", {"stores": "aaa"}, "import sys; sys.exit('gone')")
    plant(tmp_path, "nodekit-shelf", {"stores": "shelf", "commands": "shelf"}, MARKED)
    done = nodekit(tmp_path, "plugins", "check")
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert "ok     store 'shelf': can be imported" in lines
    failed = [line for line in lines if not line.startswith("ok ")]
    assert [line.split(":")[0] for line in failed] == ["error  store 'aaa'", "error  command 'shelf'"]
    cure = "update, reinstall or uninstall that package"
    assert f"SystemExit: gone; nodekit --traceback COMMAND shows where; {cure}" in failed[0]
    assert imported(tmp_path) == {"nodekit_shelf"}


def test_check_is_0_where_all_is_well(tmp_path: Path) -> None:
    done = nodekit(tmp_path, "plugins", "check")
    assert (done.returncode, {line.split()[0] for line in done.stdout.splitlines()}) == (0, {"ok"})


def test_check_gives_up_one_that_hangs(tmp_path: Path) -> None:
    plant(tmp_path, "nodekit-aaa", {"stores": "aaa"}, "import threading; threading.Event().wait()")
    plant(tmp_path, "nodekit-shelf", {"stores": "shelf"}, MARKED)
    done = nodekit_elsewhere(tmp_path, "plugins", "check", check_seconds=3)
    assert done.returncode == 1
    assert "error  store 'aaa': the check took longer than 3 s" in done.stdout
    assert "ok     store 'shelf'" in done.stdout


# -- docstrings of fields, types in words ---------------------------------------------------------


class Base(msgspec.Struct):
    """Settings of both.

    More.

    - `first`: Said here.
    - `second`: Said here, too.
    """

    first: int = 1
    second: int = 2


class Derived(Base, kw_only=True):
    """Settings of one.

    - `second`: Said anew,
      on two lines.
    - `none`: No field.

    The end.
    """

    second: int = 3
    third: list[str] = []
    fourth: int | None = None


def test_fields_are_documented_in_the_docstring_inherited_ones_too() -> None:
    assert field_docs(Derived) == {"first": "Said here.", "second": "Said anew, on two lines."}
    assert field_docs(DockerContainer)["startup_seconds"] == "Maximum number of seconds until it answers."
    assert field_docs(DockerContainer)["required"] == field_docs(StartedContainer)["required"]
    assert (summary(Base), summary(Derived)) == ("Settings of both.", "Settings of one.")


def test_keys_are_told_in_words_of_a_node_file() -> None:
    keys = {key.name: (key.type, key.default) for key in keys_of(DockerContainer, ("rules",))}
    assert keys["id"] == ("text", "required")
    assert keys["port"] == ("whole number, at least 1, at most 65535", "3000")
    assert keys["env"] == ("table of text or secret", "{}")
    assert keys["bearer"] == ("secret", "none")
    assert keys["gpus"][0] == '"all", or whole number, at least 1, or list of text'
    assert keys["mode"] == ('"once" or "served"', '"served"')
    assert keys["required"] == ("true or false", "true")
    assert {key.name: key.type for key in keys_of(Derived)}["fourth"] == "whole number"


class Described(msgspec.Struct):
    """Fields that are described in their types.

    - `both`: In the docstring.
    """

    said: Annotated[int, msgspec.Meta(ge=0, description="In its type")] = 0
    both: Annotated[int, msgspec.Meta(description="In its type")] = 0


def test_a_description_in_a_type_is_shown_where_the_docstring_has_none() -> None:
    assert [key.text for key in keys_of(Described)] == ["In its type", "In the docstring."]


BARE = """
from typing import Annotated
from msgspec import Meta, Struct
from nodekit import Provider

class Rules(Struct):
    opens: Annotated[int, Meta(description="When it opens")] = 0

class Guard:
    container_rules = Rules

    async def nodekit_admit(self, request): ...

provider = Provider(Struct, lambda config, file: Guard(), container=Rules)
"""


def test_a_plugin_without_settings_is_shown_without_words_about_structs(tmp_path: Path) -> None:
    plant(tmp_path, "nodekit-bare", {"plugins": "bare"}, BARE)
    assert "serializable" not in nodekit(tmp_path, "plugins", "show", "bare").stdout
    schema = nodekit(tmp_path, "config", "schema").stdout
    assert "serializable" not in schema
    assert "When it opens. For the plugin `bare`" in schema
