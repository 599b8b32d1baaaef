"""The volumes of containers: pinned when they are first used, and what is dangerous about them."""

import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from nodekit_docker.config import DockerContainer, Volume
from nodekit_docker.engine.engine import Engine
from nodekit_docker.engine.errors import NotUp

SYSTEM = ("/boot", "/dev", "/etc", "/proc", "/root", "/run", "/sys", "/usr", "/var/lib/docker")
"""Folders from which a container could take over the machine, or learn its secrets."""


class Volumes:
    """The volumes of a node's containers. A folder is pinned at its first start, until the node ends.

    A path can come to mean another folder between two starts of a container: somebody replaces a part of it by a link.
    So links are resolved here, and a folder that is another one than at first is refused.
    """

    def __init__(self, engine: Engine, folder: Path, *, local: bool) -> None:
        """`local` is True if the paths of volumes are paths of this process, too: it does not run in a container."""
        self._engine = engine
        self._folder = folder
        self._local = local
        self._pins: dict[str, tuple[str, object]] = {}
        """Resolved paths and their marks, by the entries of the node file."""

    async def ready(self, container: DockerContainer) -> Sequence[Volume]:
        """Return the container's volumes, with paths as they were at the first start. Raise `NotUp`."""
        if not self._local or not container.volumes:
            return [Volume.parse(text, self._folder) for text in container.volumes]
        return await self._engine.threads.run(lambda: [self.pinned(one) for one in container.volumes], followed=False)

    def pinned(self, text: str) -> Volume:
        """Parse a volume and resolve its path. Raise `NotUp` if that is not what it was at first."""
        volume = Volume.parse(text, self._folder)
        if not volume.is_bind:
            return volume
        path = os.path.realpath(volume.source)
        try:
            found = path, _mark(path)
        except OSError:  # missing, or not to be seen by this user: the engine has the answer
            return volume
        pin = self._pins.setdefault(text, found)
        if pin != found:
            raise NotUp(
                f"the volume {text} is not what it was at the first start ({pin[0]}): somebody has put something else "
                "in its place; start the node again if that is right"
            )
        return Volume(path, volume.target, volume.read_only)


def _mark(path: str) -> object:
    """Return what stays the same of a folder, or of the folder of a file: files are often replaced as a whole."""
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        return status.st_dev, status.st_ino
    folder = os.stat(os.path.dirname(path))
    return folder.st_dev, folder.st_ino, stat.S_IFMT(status.st_mode)


# -- dangers --------------------------------------------------------------------------------------


def dangers(containers: Collection[DockerContainer], folder: Path, private: Mapping[str, Path]) -> Iterator[str]:
    """Yield a warning for each volume that gives a container more than its author may know.

    `private` are things that belong to the node and the engine, with their names.
    """
    for container in containers:
        for text in container.volumes:
            volume = Volume.parse(text, folder)
            if volume.is_bind and (what := _danger(volume, private)):
                yield (
                    f"container {container.id!r}: its volume {text} holds {what}: whoever gets into the container may "
                    "take over this machine or this node; mount only what it needs, with :ro if it only reads"
                )


def _danger(volume: Volume, private: Mapping[str, Path]) -> str:
    """Return the most dangerous thing that a volume holds; empty if there is none."""
    source = Path(os.path.realpath(volume.source))
    if source == Path("/"):
        return "the whole disk"
    for name, place in private.items():
        path = Path(os.path.realpath(place))
        if path.is_relative_to(source) or (source.is_relative_to(path) and name in _WHOLE):
            return name
    for name in SYSTEM:
        path = Path(os.path.realpath(name))
        if path.is_relative_to(source) or (source.is_relative_to(path) and not volume.read_only):
            return f"a folder of the system, {name}" if source != path else name
    return ""


STATE, SOCKET, NODE_FILE = "the secret of the node", "the engine's socket", "the node file"
_WHOLE = (STATE, SOCKET)
"""Private things of which no part is a matter of containers. Folders beside the node file often are."""


# -- nesting --------------------------------------------------------------------------------------


def nested(containers: Sequence[DockerContainer], folder: Path) -> Iterator[tuple[int, int, str]]:
    """Yield each volume that lies in another one that can be written: the container's number, the volume's, a text.

    A container that can write around a volume could replace it by a link to any folder of the machine, which the
    engine would mount at the next start.
    """
    binds = list(_binds(containers, folder))
    outer = [(text, source) for _, text, source, read_only in binds if not read_only]
    for (number, index), _, source, _ in binds:
        for text, around in outer:
            if source != around and source.is_relative_to(around):
                why = f"it lies in {text!r}, which can be written: put it beside that one, or make that one read-only"
                yield number, index, f"{why} (:ro)"
                break


def _binds(containers: Sequence[DockerContainer], folder: Path) -> Iterator[tuple[tuple[int, int], str, Path, bool]]:
    for number, container in enumerate(containers):
        for index, text in enumerate(container.volumes):
            try:
                volume = Volume.parse(text, folder)
            except ValueError:
                continue
            if volume.is_bind:
                yield (number, index), text, Path(os.path.realpath(volume.source)), volume.read_only
