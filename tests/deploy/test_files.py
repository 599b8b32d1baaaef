"""The files of `deploy/` agree with each other and with the node."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import ROOT
from served import nodekit

from nodekit.config.formats import read_tables
from nodekit_asgi.api.routes import ROUTES

DEPLOY = ROOT / "deploy"
FOLDER = "/var/lib/nodekit"
SPARE_SECONDS = 30


def tables() -> dict[str, Any]:
    found: dict[str, Any] = read_tables(str(DEPLOY / "node.toml")).tables
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "node.toml"
    text = (DEPLOY / "node.toml").read_text(encoding="utf-8")
    assert FOLDER in text
    file.write_text(text.replace(FOLDER, str(tmp_path)), encoding="utf-8")
    return file


def pod() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    return found["spec"]["template"]["spec"]


def unit() -> dict[str, str]:
    lines = (DEPLOY / "nodekit.service").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")


def test_the_node_file_composes(file: Path) -> None:
    done = nodekit("check", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_who_ends_the_node_waits_longer_than_it_drains() -> None:
    drain = tables()["node"]["drain_seconds"]
    assert int(unit()["TimeoutStopSec"]) >= drain + SPARE_SECONDS
    assert pod()["terminationGracePeriodSeconds"] >= drain + SPARE_SECONDS


def test_the_store_is_in_the_folder_that_the_node_may_write_to() -> None:
    folder = Path(tables()["store"]["path"]).parent
    assert folder == Path("/var/lib") / unit()["StateDirectory"]
    [container] = pod()["containers"]
    assert str(folder) in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_probes_ask_for_routes_of_the_node_by_a_name_that_it_answers_to() -> None:
    [container] = pod()["containers"]
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    paths = {name: probe["path"] for name, probe in probes.items()}
    assert paths == {
        "startupProbe": "/health/live",
        "livenessProbe": "/health/live",
        "readinessProbe": "/health",
    }
    assert all("GET" in ROUTES[path] for path in paths.values())
    assert all(probe["httpHeaders"] == [{"name": "Host", "value": "localhost"}] for probe in probes.values())


def test_proxies_call_the_node_where_it_listens_and_are_trusted() -> None:
    [transport] = tables()["transports"]
    for name in ("nginx.conf", "nginx-below-a-path.conf", "Caddyfile"):
        assert transport["bind"] in (DEPLOY / name).read_text(encoding="utf-8"), name
    assert transport["trusted_proxies"] == [transport["bind"].rpartition(":")[0]]
    assert transport["allowed_hosts"] == ["node.example"]


def test_the_page_names_each_file() -> None:
    page = (ROOT / "docs" / "how-to" / "run-in-production.md").read_text(encoding="utf-8")
    for file in DEPLOY.iterdir():
        assert f"(../../deploy/{file.name})" in page, file.name
