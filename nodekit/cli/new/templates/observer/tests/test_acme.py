"""Tests of nodekit's promises for the observer `acme`, which writes a line for each job."""

import json
from pathlib import Path

import pytest

from nodekit.testing import ObserverContract, make_request
from nodekit_acme import AcmeConfig, AcmeObserver


class TestAcmeObserver(ObserverContract):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "acme.jsonl"

    @pytest.fixture
    def observer(self, path: Path) -> AcmeObserver:
        return AcmeObserver(AcmeConfig(path=path))

    async def test_each_job_that_has_ended_is_a_line(self, observer: AcmeObserver, path: Path) -> None:
        async with self.running(observer) as node:
            jobs = [await self.finished(node, make_request(container)) for container in ("echo", "fail")]
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(line["id"], line["status"]) for line in lines] == [(job.id, job.status) for job in jobs]
