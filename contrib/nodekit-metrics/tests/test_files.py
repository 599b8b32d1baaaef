"""Tests that the dashboard, the alerts and the README name only metrics that exist, and all of them."""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import Metric

from nodekit_metrics import Metrics, MetricsConfig

README = Path(__file__).parent.parent / "README.md"
PACKAGE = files("nodekit_metrics")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",), "info": ("_info",)}


def families() -> list[Metric]:
    """Return all metrics, also those without a value yet."""
    metrics = Metrics()
    return [family for collector in metrics.registry._collector_to_names for family in described(collector)]


def described(collector: Any) -> Iterator[Metric]:
    yield from collector.describe() if hasattr(collector, "describe") else collector.collect()


def names() -> set[str]:
    """Return the names of all series."""
    return {family.name + suffix for family in families() for suffix in SUFFIXES[family.type]}


def named_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:nodekit|process|python)_[a-z_]+", text))


def panels() -> Iterator[dict[str, Any]]:
    yield from json.loads((PACKAGE / "grafana.json").read_text())["panels"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", ())]


def test_every_query_of_the_dashboard_names_metrics_that_exist() -> None:
    assert len(expressions()) > 20
    for expression in expressions():
        assert named_in(expression), expression
        assert named_in(expression) <= names(), expression


def test_the_dashboard_shows_every_metric_but_what_runs_the_node() -> None:
    shown = named_in(" ".join(expressions()))
    own = [family for family in families() if family.name.startswith("nodekit_")]
    left_out = {family.name for family in own if not shown & {family.name + end for end in SUFFIXES[family.type]}}
    assert left_out == {"nodekit_build_info"}


def test_panels_do_not_lie_on_each_other_and_have_numbers_of_their_own() -> None:
    places = [panel["gridPos"] for panel in panels()]
    covered = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < 24
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))


def test_every_alert_names_metrics_that_exist() -> None:
    text = (PACKAGE / "alerts.yml").read_text()
    found = named_in(text)
    assert len(found) >= 5
    assert found <= names()


def table(heading: str) -> dict[str, tuple[str, ...]]:
    section = re.search(
        rf"^## {heading}\n(.*?)(?=^## |\Z)", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert section, heading
    rows = [
        [cell.strip() for cell in row.strip("|").split(" | ")]
        for row in re.findall(r"^\| `.*\|$", section[1], re.MULTILINE)
    ]
    return {row[0].strip("`"): tuple(row[1:]) for row in rows}


def test_the_readme_has_every_metric_with_its_type_and_labels() -> None:
    expected = {}
    for family in families():
        if family.name.startswith("nodekit_"):
            name = family.name + ("_total" if family.type == "counter" else "")
            expected[name] = family.type
    documented = table("Metrics")
    assert {name: row[0] for name, row in documented.items()} == expected
    labels = {name: set(re.findall(r"`(\w+)`", row[1])) for name, row in documented.items()}
    assert labels == {name: set(label_names(name)) for name in expected}


def label_names(name: str) -> tuple[str, ...]:
    for collector in Metrics().registry._collector_to_names:
        for family in described(collector):
            if family.name == name.removesuffix("_total"):
                return getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", ())
    raise AssertionError(name)


def test_the_readme_has_every_setting_with_its_default() -> None:
    expected = {
        field.name: f"`{msgspec.json.encode(field.default).decode()}`"
        for field in msgspec.structs.fields(MetricsConfig)
    }
    assert {key: row[0].replace(", ", ",") for key, row in table("Settings").items()} == expected


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
