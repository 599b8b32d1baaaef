"""Drills: a node that is killed again and again under load keeps every promise. `make drills` holds a longer one."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from chance import SEED
from drills import DRAIN, DRAIN_THEN_STOP, KILL, Drill, services

from nodekit_sqlite._places import place
from nodekit_sqlite._reading import JOB
from nodekit_sqlite._sums import record_sum, state_sum

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("DRILL_KILLS", "5"))
ENDS = [KILL, DRAIN, KILL, DRAIN_THEN_STOP, *[KILL] * 4]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_node_under_load_keeps_its_promises_however_often_it_is_killed_or_drained(tmp_path: Path) -> None:
    async with services() as containers:
        figures = await Drill(tmp_path, containers, SEED).run(ROUNDS, ENDS)
    print(f"\n{figures}")
    assert figures.faults == [], f"DRILL_SEED={SEED}\n{figures}"
    assert figures.kills + figures.drains == ROUNDS
    assert figures.kills > figures.drains
    assert figures.jobs > ROUNDS


def betray(database: Path, ids: Sequence[str]) -> None:
    """Corrupt a store, with right checksums: remove a finished job, reset one to accepted, change the result of one."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        numbers = [connection.execute("SELECT number FROM jobs WHERE id = ?", [id]).fetchone()[0] for id in ids[:3]]
        gone, again, other = numbers
        connection.execute("DELETE FROM records WHERE place >> 24 = ?", (gone,))
        connection.execute("DELETE FROM records WHERE place >> 24 = ? AND place & 0xffffff > 0", (again,))
        connection.execute("DELETE FROM jobs WHERE number = ?", (gone,))
        state = b'{"accepted_at": 1.0, "status": "accepted", "due": "c0"}'
        change = "UPDATE jobs SET status = 'accepted', open = 1, steps = 0, state = ? WHERE number = ?"
        connection.execute(change, (state, again))
        row = connection.execute(f"SELECT {JOB} FROM jobs WHERE number = ?", (again,)).fetchone()
        connection.execute("UPDATE jobs SET state_sum = ? WHERE number = ?", (state_sum(*row), again))
        record = place(other, 3)
        [(body,)] = connection.execute("SELECT body FROM records WHERE place = ?", (record,)).fetchall()
        body = body.replace(b'"n": ', b'"n": 1')
        sum = record_sum(record, True, None, body)
        connection.execute("UPDATE records SET body = ?, sum = ? WHERE place = ?", (body, sum, record))


async def test_a_drill_notices_what_was_lost_done_twice_and_told_otherwise(tmp_path: Path) -> None:
    betrayed: list[str] = []

    def sabotage(database: Path, ids: Sequence[str]) -> None:
        betrayed.extend(ids[:3])
        betray(database, betrayed)

    async with services() as containers:
        figures = await Drill(tmp_path, containers, SEED).run(1, [DRAIN], sabotage)
    lost, again, other = betrayed
    assert figures.lost == [lost], figures
    assert {key.partition(":")[0] for key in figures.called_again} == {again}, figures
    assert any(text.startswith(other) for text in figures.contradictions), figures
