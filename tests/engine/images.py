"""Images for tests, made from this system's own Python: no registry, no package index, no network."""

import io
import platform
import tarfile
from functools import cached_property
from pathlib import Path

import docker

from engine.rootfs import python_rootfs

LABEL = "org.nodekit.test"  # a label of our images, and so of all their containers
SERVICE = Path(__file__).with_name("service.py")
PROGRAM = Path(__file__).with_name("program.py")


class Images:
    """Images of tests by name. Each is made when first used; the value is its tag."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    @cached_property
    def python(self) -> str:
        """The Python that runs the tests, as /usr/local/bin/python3, with its standard library, and /bin/sh."""
        tag = f"nodekit-test/python:{platform.python_version()}"
        if not self._is_like_this_system():
            version = ".".join(platform.python_version_tuple()[:2])
            return self.build(tag, f"FROM python:{version}-slim")
        name, version = tag.split(":")
        with python_rootfs() as data:
            changes = [f"LABEL {LABEL}=1", 'CMD ["python3"]']
            answer = self._client.api.import_image_from_data(data, repository=name, tag=version, changes=changes)
        if "error" in str(answer):
            raise RuntimeError(f"the engine did not take {tag}: {answer}")
        return tag

    def _is_like_this_system(self) -> bool:
        engine = self._client.info()
        return (platform.system().lower(), platform.machine()) == (engine["OSType"], engine["Architecture"])

    @cached_property
    def service(self) -> str:
        """The image `python` with `service.py`: a container of nodekit that does what a job tells it to."""
        lines = ("COPY service.py /service.py", "EXPOSE 3000", 'ENTRYPOINT ["python3", "-IS", "/service.py"]')
        return self.build("nodekit-test/service:1", "\n".join((f"FROM {self.python}", *lines)), SERVICE)

    @cached_property
    def program(self) -> str:
        """The image `python` with `program.py`, which is run once for each step."""
        lines = ("COPY service.py program.py /", 'ENTRYPOINT ["python3", "-S", "/program.py"]')
        return self.build("nodekit-test/program:1", "\n".join((f"FROM {self.python}", *lines)), SERVICE, PROGRAM)

    def build(self, tag: str, dockerfile: str, *files: Path, **contents: bytes) -> str:
        """`docker build` with these files beside the Dockerfile; the image carries the label of the tests."""
        given = {"Dockerfile": dockerfile.encode(), **{file.name: file.read_bytes() for file in files}, **contents}
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as archive:
            for name, content in given.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o644
                archive.addfile(member, io.BytesIO(content))
        context.seek(0)
        self._client.images.build(
            fileobj=context, custom_context=True, tag=tag, labels={LABEL: "1"}, rm=True, forcerm=True
        )
        return tag
