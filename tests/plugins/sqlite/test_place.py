"""The checks of `nodekit doctor` for the place of a database: its disk, its file system and its file."""

import os
from pathlib import Path
from typing import Any

import pytest

from nodekit import Configured, ExaminedFile, Finding, NodeFile
from nodekit_sqlite import SqliteConfig
from nodekit_sqlite import doctor as checks

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/shared rw - nfs4 server:/jobs rw
31 30 8:2 / /mnt/shared/local rw - xfs /dev/sdb rw
32 22 0:41 / /mnt/with\\040space rw,nosuid shared:7 master:1 - cifs //server/x rw
33 22 0:42 / /home/grün rw - fuse.sshfs host: rw
34 32 8:3 / /mnt/with\\040space rw - ext4 /dev/sdc rw
"""


def found(folder: Path, **more: Any) -> list[Finding]:
    config = SqliteConfig(path=folder / "jobs.db", min_free_bytes=more.pop("min_free_bytes", 0))
    components = (Configured("store", "sqlite", "store", config),)
    told = checks.findings(ExaminedFile(NodeFile(folder / "node.toml", "n"), components))
    return [one for one in told if one.level != "ok"]


def test_a_local_folder_is_well_and_nothing_is_made(tmp_path: Path) -> None:
    assert found(tmp_path) == []
    assert os.listdir(tmp_path) == []
    assert list(checks.findings()) == []


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib", "ext4"),
        ("/mnt/shared/a/b", "nfs4"),
        ("/mnt/shared/local/a", "xfs"),
        ("/mnt/sharedness", "ext4"),
        ("/mnt/with space", "ext4"),
        ("/home/grün/x", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_the_last_mount_above_it(tmp_path: Path, folder: str, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert checks.file_system(Path(folder), mounts) == kind
    assert checks.file_system(Path(folder), tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("kind", "level"), [("nfs4", "warning"), ("fuse.sshfs", "warning"), ("ext4", None), ("", None)]
)
def test_a_file_system_of_several_machines_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, level: str | None
) -> None:
    monkeypatch.setattr(checks, "file_system", lambda folder: kind)
    assert [one.level for one in found(tmp_path)] == ([level] if level else [])


def test_a_disk_on_which_no_jobs_are_taken_is_an_error(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, min_free_bytes=1 << 60)
    assert (finding.level, finding.subject) == ("error", "store.min_free_bytes")


def test_files_that_a_node_refuses_or_repairs_are_told(tmp_path: Path) -> None:
    database = tmp_path / "jobs.db"
    database.touch(mode=0o644)
    database.chmod(0o644)
    assert [one.level for one in found(tmp_path)] == ["note"]
    (tmp_path / "copy").hardlink_to(database)
    assert [one.level for one in found(tmp_path)] == ["error"]
    (tmp_path / "copy").unlink()
    database.chmod(0o600)
    (tmp_path / "jobs.db.saved").touch()
    (finding,) = found(tmp_path)
    assert (finding.level, "jobs.db.saved" in finding.text) == ("error", True)
    (tmp_path / "jobs.db.saved").unlink()
    database.unlink()
    database.mkdir()
    assert [one.level for one in found(tmp_path)] == ["error"]
