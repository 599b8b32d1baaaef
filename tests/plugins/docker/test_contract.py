"""The runner `docker` keeps the promises of runners."""

from typing import Any

import pytest
from docker_runs import Bed
from paths import ROOT

from nodekit.testing import StreamingRunnerContract

SERVICE = ROOT / "tests" / "support" / "contract_service.py"


@pytest.fixture(scope="module")
def image(engine: Any) -> str:
    lines = (f"FROM {engine.images.python}", "COPY contract_service.py /", 'ENTRYPOINT ["python3", "-IS"]')
    tag: str = engine.images.build("nodekit-test/contract:1", "\n".join(lines), SERVICE)
    return tag


class TestDockerRunner(StreamingRunnerContract):
    timeout_seconds = 60.0

    @pytest.fixture
    def runner(self, bed: Bed, image: str) -> Any:
        self.bed = bed
        made = {"image": image, "command": ("/contract_service.py",)}
        environments = {"echo": {}, "fail": {"FAIL": "1"}, "slow": {"SLOW": "600"}}
        environments |= {"endless": {"ENDLESS": "1"}, "broken": {"BROKEN": "1"}}
        return bed.runner(*(bed.container(id, env=env, **made) for id, env in environments.items()))

    def nothing_is_left(self, runner: Any) -> bool:
        return self.bed.made() == []
