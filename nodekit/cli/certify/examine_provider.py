"""A process that examines one provider: if it can be imported and built, and which suites fit it.

It is a process because the provider's code may do anything.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec

from nodekit.cli.certify.components import build, load, written
from nodekit.cli.certify.messages import Examined, Subject, decoded, encoded
from nodekit.cli.certify.reporter import class_name
from nodekit.cli.certify.settings import CannotBeMade, has_path
from nodekit.cli.certify.suites import there
from nodekit.config.providers import Provider
from nodekit.errors import NodekitError
from nodekit.hooks.manager import Hooks
from nodekit.interfaces.shared_store import is_shared
from nodekit.testing import ContainerRunnerContract, StreamingRunnerContract
from nodekit.testing.builders.components import make_node

_CALLED = (ContainerRunnerContract.echo, ContainerRunnerContract.fail, ContainerRunnerContract.slow)
_STREAMED = (StreamingRunnerContract.endless, StreamingRunnerContract.broken)

_START_SECONDS = 10.0
_HOOKS = {
    "GuardContract": ("nodekit_admit", "nodekit_limit"),
    "IdentityContract": ("nodekit_identify",),
    "ObserverContract": ("nodekit_observe",),
    "StepContract": ("nodekit_step",),
}
"""Suites of plugins, and the hooks that make them fit."""


def examine(subject: Subject) -> Examined:
    """Return the suites that fit the provider, or the reason why there are none."""
    try:
        provider = load(subject)
    except (Exception, SystemExit) as error:
        text = str(error) if isinstance(error, NodekitError) else f"{type(error).__name__}: {error}"
        return Examined(imported=False, reason=text, cure="correct what its import needs")
    try:
        component = build(subject, provider, subject.folder)
    except CannotBeMade as error:
        return Examined(reason=error.reason, cure=error.cure)
    return _of_its_kind(subject, provider, component)


def _of_its_kind(subject: Subject, provider: Provider[Any], component: Any) -> Examined:
    seen = Examined(component=class_name(component))
    match subject.kind:
        case "store":
            return _with(seen, _suites_of_store(component, durable=has_path(provider.config, _given(subject))))
        case "runner":
            return _runner(seen, component)
        case "transport":
            return _transport(seen, component)
        case "pipeline":
            return _with(seen, ["PipelineContract"])
        case "plugin":
            return _plugin(seen, component)


def _given(subject: Subject) -> Mapping[str, Any]:
    return {**written(subject), **subject.given}


def _suites_of_store(component: Any, *, durable: bool) -> Iterator[str]:
    shared = is_shared(component)
    if durable or not shared:  # the suite of shared stores includes what a store that is not durable promises
        yield "DurableJobStoreContract" if durable else "JobStoreContract"
    if shared:
        yield "SharedStoreContract"


def _runner(seen: Examined, component: Any) -> Examined:
    provided = set(component.containers)
    if missing := [id for id in _CALLED if id not in provided]:
        reason = f"its suite calls containers {_listed(_CALLED)}; it lacks {_listed(missing)}"
        cure = (
            f"give a node file in which this runner has containers that behave as {_CALLED[0]}, … should: --with FILE"
        )
        return msgspec.structs.replace(seen, reason=reason, cure=cure)
    if not hasattr(component, "stream"):
        return _with(seen, ["ContainerRunnerContract"])
    if missing := [id for id in _STREAMED if id not in provided]:
        limits = (f"streaming not tested: no container {_listed(missing)}",)
        return msgspec.structs.replace(_with(seen, ["ContainerRunnerContract"]), limits=limits)
    return _with(seen, ["StreamingRunnerContract"])


def _transport(seen: Examined, component: Any) -> Examined:
    """Choose the suite for HTTP, unless the transport serves other URLs.

    A transport that does not start fails in its tests.
    """
    urls: list[str] = []

    async def serve() -> None:
        with anyio.move_on_after(_START_SECONDS):
            async with make_node(transports=[component]) as node:
                urls.extend(node.urls)

    with suppress(Exception):
        anyio.run(serve)
    if other := [url for url in urls if not url.startswith(("http:", "https:", "unix:"))]:
        reason = f"it listens at {other[0]}, which is not HTTP; the suite does not know how clients send requests there"
        cure = "write a test class on TransportContract that defines `submit` and `fetch`, and give its file as TESTS"
        return msgspec.structs.replace(seen, reason=reason, cure=cure)
    return _with(seen, ["HttpTransportContract"])


def _plugin(seen: Examined, component: Any) -> Examined:
    try:
        Hooks([component])
    except NodekitError as error:
        return msgspec.structs.replace(seen, reason=f"it is not a plugin: {error}", cure="correct the plugin")
    roles = [suite for suite, hooks in _HOOKS.items() if any(hasattr(component, hook) for hook in hooks)]
    roles = roles or ["PluginContract"]
    return msgspec.structs.replace(_with(seen, roles), roles=tuple(roles))


def _with(seen: Examined, suites: Any) -> Examined:
    wanted = list(suites)
    if absent := [name for name in wanted if there(name) is None]:
        cure = "update nodekit-compute"
        seen = msgspec.structs.replace(seen, reason=f"nodekit.testing has no {_listed(absent)}", cure=cure)
    return msgspec.structs.replace(seen, suites=tuple(name for name in wanted if there(name)))


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main(subject: str, answer: str) -> None:
    seen = examine(decoded(Path(subject), Subject))
    Path(f"{answer}.new").write_bytes(encoded(seen))
    Path(f"{answer}.new").rename(answer)  # the file appears only when it is complete


if __name__ == "__main__":
    main(*sys.argv[1:])
