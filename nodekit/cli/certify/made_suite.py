"""The making of a class of tests for a provider's component."""

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nodekit.cli.certify.components import build, load
from nodekit.cli.certify.messages import Subject, decoded
from nodekit.cli.certify.suites import SUITES, there
from nodekit.interfaces.shared_store import is_shared


def made(subject_file: str, suite: str, backends: Sequence[str]) -> type:
    """Return a subclass of the suite. Each test gets a new component, in a folder of its own."""
    subject = decoded(Path(subject_file), Subject)
    base = there(suite)
    assert base is not None
    provider = load(subject)

    def again(folder: Path) -> Any:
        return build(subject, provider, folder)

    body: dict[str, Any] = {"backends": tuple(backends), "anyio_backend": _backend(backends)}
    if subject.kind == "store":
        body |= _of_store(again) | {"exclusive": not is_shared(again(subject.folder))}
        if "lease_seconds" in subject.given:
            body["lease_seconds"] = subject.given["lease_seconds"]
    else:
        body[SUITES[suite].fixture] = _of_another(again)
    return type(f"Test{suite}", (base,), body)


def _backend(backends: Sequence[str]) -> Any:
    @pytest.fixture(params=backends, scope="module")
    def anyio_backend(self: object, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    return anyio_backend


def _of_another(again: Callable[[Path], Any]) -> Any:
    @pytest.fixture
    def component(self: object, tmp_path: Path) -> Any:
        return again(tmp_path)

    return component


def _of_store(again: Callable[[Path], Any]) -> dict[str, Any]:
    @pytest.fixture
    def open_store(self: object, tmp_path: Path) -> Callable[[], Any]:
        return lambda: again(tmp_path)

    @pytest.fixture
    async def store(self: object, tmp_path: Path) -> AsyncIterator[Any]:
        async with again(tmp_path) as store:
            yield store

    return {"open_store": open_store, "store": store}
