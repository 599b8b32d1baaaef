"""Rules of containers: the plugins that read them, and problems of rules that no plugin reads."""

from typing import Any

import msgspec
import pytest

from nodekit import Container
from nodekit.hooks.container_rules import declared_rules, declared_twice, nearest, rule_problems, rules_of


class Rules(msgspec.Struct):
    external: bool = False


class Others(msgspec.Struct):
    hours: int = 24


class Reads:
    container_rules = Rules


class ReadsOthers:
    container_rules = Others


class ReadsNothing:
    pass


def problems(rules: dict[str, Any], *plugins: object) -> list[tuple[str, str]]:
    offered = [("runners[0]", Container(id="plain")), ("runners[1]", Container(id="x", rules=rules))]
    found = rule_problems(offered, plugins)
    return [(problem.where, problem.text) for problem in found]


def test_a_plugin_declares_the_rules_that_it_reads_or_none() -> None:
    assert declared_rules(Reads()) is Rules
    assert declared_rules(ReadsNothing()) is None


def test_a_plugin_and_its_provider_declare_the_same_rules() -> None:
    assert declared_twice(Reads(), Rules) is None
    assert declared_twice(ReadsNothing(), None) is None
    of_the_provider = "its provider declares rules of containers that ReadsNothing does not; "
    assert declared_twice(ReadsNothing(), Rules) == f"{of_the_provider}give the class container_rules = Rules"
    of_the_plugin = "Reads declares rules of containers that its provider does not; write Provider(…, container=Rules)"
    assert declared_twice(Reads(), None) == declared_twice(Reads(), Others) == of_the_plugin


def test_rules_that_plugins_read_and_accept_are_no_problem() -> None:
    assert problems({"external": True, "hours": 8}, ReadsNothing(), Reads(), ReadsOthers()) == []
    assert problems({}, Reads()) == []


def test_a_rule_that_no_plugin_reads_is_a_problem_that_names_the_nearest() -> None:
    where = "container 'x', rule 'extrenal'"
    assert problems({"extrenal": True}, Reads()) == [(where, "no plugin reads it; did you mean 'external'?")]
    [(where, text)] = problems({"external": True}, ReadsOthers())
    assert (where, text) == (
        "container 'x', rule 'external'",
        "no plugin reads it; a plugin declares the rules that it reads by its attribute `container_rules`",
    )


def test_a_rule_that_its_plugin_does_not_accept_is_a_problem_beside_others() -> None:
    [wrong, unread] = sorted(problems({"external": "yes", "hours": 8}, Reads()))
    assert wrong[0] == "container 'x'"
    assert "Expected `bool`" in wrong[1]
    assert unread[0] == "container 'x', rule 'hours'"


def test_each_plugin_gets_its_own_rules_of_a_container() -> None:
    container = Container(id="x", rules={"external": True, "hours": 8})
    assert rules_of(container, Rules) == {"external": True}
    assert rules_of(container, Others) == {"hours": 8}
    assert rules_of(Container(id="y"), Others) == {}


@pytest.mark.parametrize(("key", "told"), [("hour", "; did you mean 'hours'?"), ("x", "")])
def test_the_nearest_key_is_named_where_one_is_near(key: str, told: str) -> None:
    assert nearest(key, ("external", "hours")) == told
