"""The images of examples/docker, made without the command `docker`.

As a program, it makes the images and runs the demo on them: `make demo-docker`. DOCKER_HOST names the engine, and
NODEKIT_PYTHON_IMAGE the base image; `python tests/engine run` sets both.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import docker
import docker.errors

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "docker"
SERVICES = ("tokenise", "count", "rank")
PRINTED = 4000
"""Number of characters shown of a failed build."""


def build_hello(client: docker.DockerClient, base: str, labels: Mapping[str, str]) -> None:
    """Build the images that the example's node file names."""
    for service in SERVICES:
        build(
            client,
            f"nodekit-hello/{service}:1",
            dockerfile=EXAMPLE / "hello.Dockerfile",
            context=ROOT / "examples" / "nodekit_hello",
            labels=labels,
            BASE=base,
            SERVICE=service,
        )


def build_node(client: docker.DockerClient, tag: str, base: str, labels: Mapping[str, str]) -> None:
    """Build the image of a node; `base` needs pip, which needs the dependencies of nodekit."""
    build(client, tag, dockerfile=EXAMPLE / "Dockerfile", context=ROOT, labels=labels, BASE=base)


def build(
    client: docker.DockerClient, tag: str, *, dockerfile: Path, context: Path, labels: Mapping[str, str], **args: str
) -> None:
    """Build an image. Raise RuntimeError with the end of the output: the engine's own error names only the step."""
    try:
        client.images.build(
            path=str(context),
            dockerfile=str(dockerfile),
            tag=tag,
            buildargs=args,
            labels=dict(labels),
            rm=True,
            forcerm=True,
        )
    except docker.errors.BuildError as error:
        printed = "".join(str(line.get("stream") or "") for line in error.build_log)
        raise RuntimeError(f"{tag}: {error}\n{printed[-PRINTED:]}") from error


def main() -> None:
    client = docker.DockerClient(os.environ["DOCKER_HOST"], timeout=60)
    base = os.environ["NODEKIT_PYTHON_IMAGE"]
    labels = client.images.get(base).labels  # so that removing images by the base's labels removes these as well
    print(f"images nodekit-hello/…, based on {base}, on Docker {client.version()['Version']}", flush=True)
    build_hello(client, base, labels)
    client.close()
    command = [sys.executable, "-m", "nodekit.cli", "demo", str(EXAMPLE / "node.toml")]
    os.execv(command[0], command)  # it cleans up when interrupted, and has no parent that would not wait


if __name__ == "__main__":
    main()
