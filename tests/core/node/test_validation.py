"""Containers, their ids and the rules of plugins: a mismatch is reported, and the node does not run."""

from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from components import SwitchRunner, functions, make_node

from nodekit import CompositionError, Container, NodekitError, Provider, Refusal, load_node
from nodekit.config import compose as compose_module
from nodekit_guardian import Guardian
from nodekit_remote import RemoteContainer, RemoteRunner


def told(*runners: Any, plugins: Any = ()) -> list[str]:
    with pytest.raises(CompositionError) as failed:
        make_node(*runners, plugins=plugins)
    return [str(problem) for problem in failed.value.problems]


def plugin(name: str, **rules: Any) -> Any:
    """Return a plugin with rules of these names and types."""
    struct = msgspec.defstruct(f"{name}Rules", [(key, kind, None) for key, kind in rules.items()])
    return type(name, (), {"container_rules": struct})()


# -- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", Container.__struct_fields__)
def test_a_rule_does_not_take_a_key_that_every_container_has(key: str) -> None:
    (problem,) = told(functions(), plugins=[Guardian(), plugin("Greedy", **{key: Any})])
    assert problem.startswith(f"plugins[1]: Greedy declares the rule {key!r}")
    assert "give the rule another name" in problem


def test_a_rule_does_not_take_a_key_that_the_containers_of_a_runner_have() -> None:
    remote = RemoteRunner(RemoteContainer(id="a", url="http://127.0.0.1:1"))
    (problem,) = told(functions(), remote, plugins=[plugin("Greedy", url=Any)])
    assert problem.startswith("plugins[0]: Greedy declares the rule 'url'")
    assert "runners[1] (RemoteRunner)" in problem


def test_two_plugins_do_not_declare_one_rule_and_two_of_a_kind_share_theirs() -> None:
    (problem,) = told(plugins=[plugin("One", tier=Any), plugin("Two", tier=Any)])
    assert problem.startswith("plugins[1]: Two declares the rule 'tier', and so does plugins[0] (One)")
    make_node(plugins=[Guardian(), Guardian()])


class Instance(msgspec.Struct):
    tier: int = 0


@pytest.mark.parametrize("declared", [dict, {"tier": int}, Instance(), "tier", int], ids=ascii)
def test_rules_that_are_no_struct_are_a_problem_with_the_cure(declared: Any) -> None:
    wrong = type("Wrong", (), {"container_rules": declared})()
    (problem,) = told(plugins=[wrong])
    assert problem.startswith("plugins[0]: Wrong.container_rules is ")
    assert "class Rules(msgspec.Struct)" in problem


def test_rules_of_types_that_nobody_knows_are_a_problem() -> None:
    class Odd:
        pass

    (problem,) = told(SwitchRunner(Container(id="a", rules={"tier": 1})), plugins=[plugin("Odd", tier=Odd)])
    assert "container 'a'" in problem


def test_rules_that_are_no_mapping_are_a_problem() -> None:
    assert told(SwitchRunner(Container(id="a", rules=["external"])))  # type: ignore[arg-type]


def test_a_module_that_imports_a_plugin_is_a_plugin_all_the_same() -> None:
    module = ModuleType("hours")
    module.nodekit_guardian = ModuleType("nodekit_guardian")  # type: ignore[attr-defined]
    module.nodekit_observe = lambda event: None  # type: ignore[attr-defined]
    make_node(plugins=[module])


@pytest.mark.anyio
@pytest.mark.parametrize("given", [None, 7, open])
async def test_a_lifespan_that_cannot_be_entered_is_told_with_its_plugin(given: Any) -> None:
    class Bare:
        def nodekit_lifespan(self) -> Any:
            return given

    with pytest.raises(NodekitError, match=r"plugins\[1\] \(Bare\): nodekit_lifespan returned .*@asynccontextmanager"):
        async with make_node(plugins=[Guardian(), Bare()]):
            pass


# -- ids ------------------------------------------------------------------------------------------

BAD_IDS = ["", " ", " a", "a ", "a\nb", "a\x00", "a\x1b[31m", "a\u2028b", "\ud800", "a\u200bb"]


@pytest.mark.parametrize("id", [*BAD_IDS, 7, None, b"a"], ids=ascii)
def test_an_id_that_cannot_be_shown_is_a_problem_of_any_runner(id: Any) -> None:
    found = told(functions(), SwitchRunner(Container(id=id)))
    assert any(problem.startswith("runners[1] (SwitchRunner): id of a container: expected") for problem in found)


@pytest.mark.parametrize("id", ["a", "echo-a", "größe", "a b", "日本語", "v1.0/x:y", "x" * 1000])
def test_other_ids_are_taken(id: str) -> None:
    make_node(SwitchRunner(Container(id=id)))


def test_two_containers_of_one_id_are_a_problem_within_a_runner_and_across_runners() -> None:
    within = SwitchRunner(Container(id="a"))
    within.containers["b"] = Container(id="a")
    (problem,) = told(within)
    assert problem.startswith("runners[0] (SwitchRunner): has the container 'a' under the key 'b'")
    (problem,) = told(SwitchRunner(Container(id="a")), SwitchRunner(Container(id="a")))
    assert problem.startswith("runners[1] (SwitchRunner): container 'a' belongs to runners[0] (SwitchRunner)")


@pytest.mark.parametrize("containers", [None, [Container(id="a")], {"a": {"id": "a"}}, {"a": None}], ids=ascii)
def test_containers_that_are_none_are_one_problem(containers: Any) -> None:
    runner = SwitchRunner(Container(id="a"))
    runner.containers = containers
    (problem,) = told(runner)
    assert problem.startswith("runners[0] (SwitchRunner): ")
    assert "expected a" in problem


def test_containers_that_cannot_be_read_are_a_problem_of_their_runner() -> None:
    class Broken(SwitchRunner):
        @property
        def containers(self) -> Any:
            raise RuntimeError("no engine")

        @containers.setter
        def containers(self, value: Any) -> None: ...

    runner = Broken.__new__(Broken)
    assert "runners[0] (Broken): its containers cannot be read: no engine" in told(runner)


# -- node files -----------------------------------------------------------------------------------


class ForeignContainer(Container, frozen=True, kw_only=True, forbid_unknown_fields=True):
    image: str = ""
    speed: int = 1


class ForeignConfig(msgspec.Struct):
    containers: tuple[ForeignContainer, ...] = ()


FILE = """
[store]
use = "memory"

[[plugins]]
use = "guardian"

[[plugins]]
use = "other"

[[runners]]
use = "foreign"

[[runners.containers]]
id = "a"

[[runners.containers]]
id = "b"
timeout_seconds = 3
"""


def compose(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str = FILE, rules: Any = None) -> Any:
    """Compose the node of a file with a third party's runner and plugin."""
    real = compose_module.load_provider
    own = {"nodekit_observe": lambda self: None} if rules is None else {"container_rules": rules}
    made = type("Other", (), own)
    offers = {
        "foreign": Provider(ForeignConfig, lambda c, file: SwitchRunner(*c.containers), container=ForeignContainer),
        "other": Provider(msgspec.Struct, lambda config, file: made(), container=rules),
    }
    monkeypatch.setattr("nodekit.config.compose.load_provider", lambda kind, use: offers.get(use) or real(kind, use))
    (folder / "node.toml").write_text(text, encoding="utf-8")
    return load_node(folder / "node.toml")


def test_a_node_file_of_foreign_parts_composes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = msgspec.defstruct("Rules", [("tier", int, 0)])
    node = compose(tmp_path, monkeypatch, FILE.replace("timeout_seconds = 3", "timeout_seconds = 3\ntier = 2"), rules)
    assert (node.containers["b"].timeout_seconds, node.containers["b"].rules) == (3, {"tier": 2})


def rules(key: str, kind: type) -> Any:
    return msgspec.defstruct("Rules", [(key, kind, None)])


DECLARES, SECOND = "plugins[1]: 'other' declares the rule", "runners[0].containers[1].id: "
B_AGAIN = '\n[[runners]]\nuse = "foreign"\n[[runners.containers]]\nid = "b"\n'


@pytest.mark.parametrize(
    ("text", "rules", "expected"),
    [
        (FILE, rules("timeout_seconds", float), [f"{DECLARES} 'timeout_seconds'", "every runner", "another name"]),
        (FILE, rules("speed", float), [f"{DECLARES} 'speed'", "runners[0] ('foreign')", "another name"]),
        (FILE, rules("external", bool), [f"{DECLARES} 'external', and so does plugins[0] ('guardian')"]),
        (FILE, dict, ["plugins[1]: container= of its provider is <class 'dict'>"]),
        (FILE.replace('"b"', '"a"'), None, [f"{SECOND}'a' is the id of runners[0].containers[0] already"]),
        (FILE + B_AGAIN, None, ["runners[1].containers[0].id: 'b' is the id of runners[0].containers[1] already"]),
        *(
            (FILE.replace('"b"', f'"{id}"'), None, [SECOND])
            for id in ("", " ", "a\\nb", "\\u0000", "a\\u2028")
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_in_a_node_file_is_one_problem_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, rules: Any, expected: list[str]
) -> None:
    with pytest.raises(CompositionError) as failed:
        compose(tmp_path, monkeypatch, text, rules)
    (problem,) = map(str, failed.value.problems)
    assert problem.startswith(expected[0])
    for words in expected:
        assert words in problem


# -- refusals -------------------------------------------------------------------------------------


def test_a_refusal_as_text_shows_what_it_is_about() -> None:
    refusal = Refusal("Container not supported", container="nope", most=3)
    assert str(refusal) == "Container not supported (container='nope', most=3)"
    assert (refusal.reason, refusal.params) == ("Container not supported", {"container": "nope", "most": 3})
    assert str(Refusal("closed")) == "closed"
    assert len(str(Refusal("long", data="x" * 10_000))) < 200
