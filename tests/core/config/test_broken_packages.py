"""Installed packages that are broken in every way harm only nodes that name them, over the real command line."""

import json
from pathlib import Path

import pytest
from node_files import NODE_FILE
from planted import STORE, nodekit, plant

SHELF = {"stores": "shelf", "plugins": "shelf", "formats": "shelf", "commands": "shelf", "doctor": "shelf"}
FAR = "[nodekit.stores]\nshelf = {}\n[nodekit.commands]\nshelf = {}\n[nodekit.doctor]\nshelf = {}\n"


def plant_broken(folder: Path, how: str) -> str:
    """Plant a distribution that is broken in this way; return the text that must be reported about it."""
    match how:
        case "import error":
            plant(folder, "nodekit-shelf", SHELF, "import nothing_of_this_name")
            return "ModuleNotFoundError"
        case "syntax error":
            plant(folder, "nodekit-shelf", SHELF, "def (")
            return "SyntaxError"
        case "exits":
            plant(folder, "nodekit-shelf", SHELF, "raise SystemExit(7)")
            return "SystemExit: 7"
        case "outcome":  # as pytest.skip raises it
            plant(folder, "nodekit-shelf", SHELF, "class Skipped(BaseException): ...\nraise Skipped('not here')")
            return "Skipped: not here"
        case "no module":
            plant(folder, "nodekit-shelf", SHELF, None)
            return "nodekit_shelf"
        case "no object":
            plant(folder, "nodekit-shelf", SHELF, "")
            return "provider"
        case "no name":
            plant(folder, "nodekit-shelf", SHELF, metadata="Metadata-Version: 2.1\nVersion: 1.0\n")
            return "its metadata has no name"
        case "no metadata":
            plant(folder, "nodekit-shelf", SHELF, metadata="")
            return "its metadata has no name"
        case "strange object":
            plant(folder, "nodekit-shelf", FAR.replace("{}", "nodekit_shelf!provider"))
            return "does not name an object of a module"
        case "no equals sign":
            plant(folder, "nodekit-shelf", "[nodekit.stores]\nshelf\n")
            return "entry points cannot be read"
        case _:
            plant(folder, "nodekit-shelf", b"[nodekit.stores]\nshelf = \xff\xfe:provider\n")
            return "entry points cannot be read"


UNREADABLE = ("no equals sign", "not text")
WAYS = (
    "import error", "syntax error", "exits", "outcome", "no module", "no object", "no name", "no metadata",
    "strange object", *UNREADABLE,
)  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
def test_it_harms_only_nodes_that_name_it(tmp_path: Path, how: str) -> None:
    words = plant_broken(tmp_path, how)
    plant(tmp_path, "nodekit-well", {"stores": "well"}, STORE)
    (tmp_path / "good.toml").write_text(NODE_FILE.replace('use = "sqlite"\npath = "jobs.db"', 'use = "well"'))
    (tmp_path / "bad.toml").write_text('[store]\nuse = "shelf"\n')

    shown = nodekit(tmp_path, "--help")
    assert (shown.returncode, "serve" in shown.stdout, "Traceback" in shown.stderr) == (0, True, False)

    good = nodekit(tmp_path, "check", "good.toml")
    assert (good.returncode, good.stderr) == (0, "")
    bad = nodekit(tmp_path, "check", "bad.toml")
    assert (bad.returncode, bad.stderr.startswith("bad.toml: store.use: ")) == (3, True)
    assert "Traceback" not in bad.stderr
    assert ("unknown store 'shelf'" if how in UNREADABLE else words) in bad.stderr

    listed = nodekit(tmp_path, "plugins")
    assert listed.returncode == 0
    assert "nodekit-well" in listed.stdout
    looked = nodekit(tmp_path, "plugins", "check")
    assert (looked.returncode, "ok     store 'well'" in looked.stdout) == (1, True)
    assert [line for line in looked.stdout.splitlines() if line.startswith("error") and words in line]


@pytest.mark.parametrize("how", ["exits", "no module", "no name", "no equals sign"])
def test_doctor_and_schema_say_so_and_go_on(tmp_path: Path, how: str) -> None:
    words = plant_broken(tmp_path, how)
    plant(tmp_path, "nodekit-well", {"stores": "well"}, STORE)
    done = nodekit(tmp_path, "doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert [line for line in done.stdout.splitlines() if line.startswith("error") and words in line]
    assert not [line for line in done.stdout.splitlines() if line.startswith("error    packages")]
    made = nodekit(tmp_path, "config", "schema")
    assert made.returncode == 0
    stores = json.loads(made.stdout)["properties"]["store"]["oneOf"]
    assert {"memory", "sqlite", "well"} <= {name for one in stores for name in one["properties"]["use"].get("enum", ())}
    assert how in UNREADABLE or [line for line in made.stderr.splitlines() if words in line]


@pytest.mark.parametrize("how", ["exits", "no name", *UNREADABLE])
def test_a_node_is_served_beside_it(tmp_path: Path, how: str) -> None:
    plant_broken(tmp_path, how)
    (tmp_path / "bad.toml").write_text('[store]\nuse = "shelf"\n')
    served = nodekit(tmp_path, "serve", "bad.toml")
    assert (served.returncode, "Traceback" in served.stderr) == (3, False)
    text = '[store]\nuse = "memory"\n[[transports]]\nuse = "asgi"\nbind = "203.0.113.1:1"\n'  # no address of ours
    (tmp_path / "good.toml").write_text(text)
    served = nodekit(tmp_path, "serve", "good.toml")
    assert (served.returncode, "cannot listen" in served.stderr) == (1, True)  # it got as far as listening


def test_an_infernet_node_composes_beside_it(tmp_path: Path) -> None:
    plant_broken(tmp_path, "no equals sign")
    (tmp_path / "config.json").write_text('{"containers": []}')
    done = nodekit(tmp_path, "check", "config.json")
    assert done.returncode == 0, done.stderr


def test_a_distribution_of_others_that_cannot_be_read_is_not_our_business(tmp_path: Path) -> None:
    plant(tmp_path, "shelf", "[console_scripts]\nshelf\n", None)
    done = nodekit(tmp_path, "plugins")
    assert (done.returncode, "broken" in done.stdout) == (0, False)


def test_a_command_that_two_distributions_claim_runs_neither(tmp_path: Path) -> None:
    command = "import click\n@click.command()\ndef provider():\n    click.echo('ran')\n"
    plant(tmp_path, "nodekit-one", {"commands": "go"}, command)
    done = nodekit(tmp_path, "go")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    plant(tmp_path, "nodekit-two", {"commands": "go"}, command)
    done = nodekit(tmp_path, "go")
    assert (done.returncode, done.stdout) == (1, "")
    assert "several distributions (nodekit-one 1.0, nodekit-two 1.0)" in done.stderr
