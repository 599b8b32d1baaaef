"""Registries on loopback, Debian's: engines take them without TLS."""

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import docker

from engine import debian
from engine.dockerd import until

LEASH = Path(__file__).with_name("leash.py")
HTPASSWD = "tester:$2y$05$nodekitnodekitnodekiteSN9kcG6d/HkD.1/Fy1sSHVXtVDl8JcO\n"  # bcrypt of TESTER


class Account(NamedTuple):
    username: str
    password: str


TESTER = Account("tester", "correct horse")


class Registry:
    """Use as a context manager. What was pushed, and the port, survive `stop` and `start`.

    Nothing outlives the block. With `private`, it asks for the credentials of TESTER. Raise debian.Missing.
    """

    def __init__(self, *, private: bool = False) -> None:
        self.account = TESTER if private else None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> "Registry":
        debian.need("docker-registry")
        self.folder = Path(tempfile.mkdtemp(prefix="nodekit-registry"))
        self.port = free_port()
        (self.folder / "htpasswd").write_text(HTPASSWD)
        (self.folder / "config.yml").write_text(self._config())
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        command = [sys.executable, "-IS", str(LEASH), str(debian.program("docker-registry")), "serve"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(self.folder / "config.yml")], stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        until(f"the registry answers; {self.folder / 'log'}", self._answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.__exit__(None, None, None)  # closes its stdin, which ends it, and waits
            self._process = None

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    def push(self, client: docker.DockerClient, tag: str, name: str) -> str:
        """Push an image of the engine as `name:tag` and remove it from the engine. Return the name to pull."""
        target = f"{self.address}/{name}"
        repository, _, version = target.rpartition(":")
        client.images.get(tag).tag(repository, version)
        credentials = {"auth_config": self.account._asdict()} if self.account else {}
        for line in client.api.push(repository, version, stream=True, decode=True, **credentials):
            if "error" in line:
                raise RuntimeError(f"pushing {target}: {line['error']}")
        client.images.remove(target)
        return target

    def digest(self, target: str, client: docker.DockerClient) -> str:
        """Return `repository@sha256:…` of a pushed image."""
        credentials = self.account._asdict() if self.account else None
        return f"{target.rpartition(':')[0]}@{client.images.get_registry_data(target, credentials).id}"

    def _config(self) -> str:
        auth = f"auth: {{htpasswd: {{realm: nodekit, path: {self.folder}/htpasswd}}}}\n" if self.account else ""
        storage = f"storage: {{filesystem: {{rootdirectory: {self.folder}/data}}}}\n"
        return f"version: 0.1\nlog: {{level: warn}}\n{storage}http: {{addr: '{self.address}'}}\n{auth}"

    def _answers(self) -> bool:
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{self.address}/v2/", timeout=5)
        except urllib.error.HTTPError as refused:
            refused.close()
            return refused.code == 401
        except OSError:
            return False
        return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
