"""The files of an image with Python, taken from this system: interpreter, library, and what both are linked to."""

import contextlib
import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

LEFT_OUT = re.compile(
    r"/(test|tests|idlelib|tkinter|turtledemo|lib2to3|ensurepip|pydoc_data|site-packages|dist-packages|config-[^/]*)(/|$)"
    r"|\.opt-\d\.pyc$|/lib-dynload/(_tkinter|nis|_test|xx|_xx)"
)
PARTS_OF_LIBC = (
    *("libpthread.so.0", "libdl.so.2", "librt.so.1"),  # empty by now; wheels are still linked to them
    "libgcc_s.so.1",  # libc loads it when a thread ends; a program without it aborts now and then
)
ACCOUNTS = {"etc/passwd": "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", "etc/group": "root:x:0:\n"}
ADDED = {"etc/nsswitch.conf": "hosts: files dns\n", **ACCOUNTS}


@contextlib.contextmanager
def python_rootfs() -> Iterator[IO[bytes]]:
    """Return a tar of the files. Python lies where official images have it, so that Dockerfiles work with both."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    interpreter = Path(os.path.realpath(sys._base_executable))  # type: ignore[attr-defined]
    library = Path(sysconfig.get_path("stdlib"))
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            _add_skeleton(archive)
            archive.add(interpreter, f"usr/local/bin/{version}", filter=_owned_by_root)
            for name in ("python3", "python"):
                _add_link(archive, f"usr/local/bin/{name}", version)
            archive.add(library, f"usr/local/lib/{version}", filter=_kept)
            archive.add(os.path.realpath("/bin/sh"), "bin/sh", filter=_owned_by_root)
            extensions = (path for path in library.glob("lib-dynload/*.so") if not LEFT_OUT.search(str(path)))
            for path in sorted(_linked([interpreter, Path("/bin/sh"), *extensions])):
                archive.add(os.path.realpath(path), path.lstrip("/"), filter=_owned_by_root)
        file.seek(0)
        yield file


def _linked(programs: Iterable[Path]) -> set[str]:
    done = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=True)
    found = set(re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", done.stdout, re.MULTILINE))
    beside_libc = {f"{os.path.dirname(path)}/{name}" for path in found for name in PARTS_OF_LIBC if "/libc.so" in path}
    return found | set(filter(os.path.exists, beside_libc))


def _add_skeleton(archive: tarfile.TarFile) -> None:
    for name, mode in {"tmp": 0o1777, "root": 0o755}.items():  # root's home may hold the interpreter
        member = tarfile.TarInfo(name)
        member.type, member.mode = tarfile.DIRTYPE, mode
        archive.addfile(member)
    for name, text in ADDED.items():
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(text), 0o644
        archive.addfile(member, io.BytesIO(text.encode()))


def _add_link(archive: tarfile.TarFile, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    archive.addfile(member)


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if LEFT_OUT.search(f"/{member.name}") else _owned_by_root(member)


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
