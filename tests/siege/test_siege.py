"""A short form of the siege: what stays true of a node that is attacked. `make siege` runs all of it, and longer."""

import signal
from pathlib import Path
from random import Random

import pytest

from siege import attacks
from siege.attacks import Attack, Size
from siege.outcome import SLACK_BYTES, run
from siege.target import job, submit, target

pytestmark = pytest.mark.anyio

SHORT = Size(1, 8)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("attack", "server"),
    [
        (attacks.large_jobs, "hypercorn"),
        (attacks.many_results, "uvicorn"),
        (attacks.unread_replies, "hypercorn"),
        (attacks.unread_events, "uvicorn"),
        (attacks.half_bodies, "uvicorn"),
        (attacks.millions_of_items, "hypercorn"),
        (attacks.half_headers, "uvicorn"),
        (attacks.pipelines, "uvicorn"),
        (attacks.endless_trailers, "hypercorn"),
        (attacks.closing_container, "uvicorn"),
        (attacks.single_threaded_container, "hypercorn"),
        (attacks.endless_output, "hypercorn"),
        (attacks.endless_output, "uvicorn"),
        (attacks.moved_files, "uvicorn"),
    ],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
async def test_a_node_under_attack_stays_in_its_budget_and_works_for_others(attack: Attack, server: str) -> None:
    outcome = await run(attack, server, SHORT, recovery_seconds=0)
    assert not outcome.problem, outcome.row
    assert outcome.peak > outcome.before > 0, "nothing was measured"


async def test_a_restart_does_not_die_of_the_jobs_that_it_finds(tmp_path: Path) -> None:
    async with target(tmp_path, "hypercorn") as node, node.attacker() as attacker:
        ids = [await submit(attacker, job(attacks.LARGE, steps=100)) for _ in range(3)]
        while not (await attacker.get(f"/api/jobs/{ids[0]}")).json.get("steps"):
            pass  # it may say 503: there is no memory left for the attacker
        node.served.signal(signal.SIGKILL)
    async with target(tmp_path, "hypercorn") as node, node.attacker() as attacker:
        for id in ids:
            while (answer := await attacker.get(f"/api/jobs/{id}")).status == 503:
                pass
            assert answer.json["status"] in ("running", "success")
        figures = await node.figures()
        assert figures.peak_bytes < node.memory_bytes + SLACK_BYTES
        for id in ids:
            while (answer := await attacker.call("DELETE", f"/api/jobs/{id}")).status == 503:
                pass
            assert answer.json["status"] in ("failed", "success")
        await node.job_of_another()


async def test_a_restart_on_damaged_files_works_for_all_whose_jobs_are_intact(tmp_path: Path) -> None:
    async with target(tmp_path, "uvicorn") as node, node.attacker() as attacker:
        ids = [await submit(attacker, job(20_000)) for _ in range(20)]
        await attacker.results(*ids)
        node.served.signal(signal.SIGTERM)
        await node.served.ended()
    chance, damage = Random(1), 0
    with (tmp_path / "jobs.db").open("r+b") as file:
        for page in chance.sample(range(20, (tmp_path / "jobs.db").stat().st_size // 4096), 5):
            file.seek(page * 4096)
            file.write(bytes(4096))
    async with target(tmp_path, "uvicorn") as node, node.attacker() as attacker:
        for result in await attacker.results(*ids):
            damage += result["status"] == "failed"
            assert result["status"] == "success" or "damaged" in str(result)
        assert 0 < damage < 20
        assert "damaged in the store" in str((await node.api.get("/health")).json)
        await node.job_of_another()
