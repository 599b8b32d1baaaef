"""Fixtures. Files are read as where no package serves a chain; nodes that are started have what is installed."""

from collections.abc import Iterator

import pytest

from nodekit_infernet import _draft


@pytest.fixture(autouse=True)
def no_chain_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = _draft._entry_points

    def without_chain() -> Iterator[tuple[str, str]]:
        return (entry for entry in installed() if entry != ("nodekit.plugins", "chain"))

    monkeypatch.setattr(_draft, "_entry_points", without_chain)
