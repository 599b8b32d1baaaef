"""The channel of a stream between the run of the job and its reader, and the record of passed pieces."""

import pickle
from base64 import b64encode
from typing import Any

import anyio
import pytest
from components import read, settle_down
from msgspec.structs import replace

from nodekit import JobStatus, JobStream, Outcome, StreamBroken, StreamRecord, Unavailable, decode_payload
from nodekit.execution.job_stream import MOST_KEPT_BYTES
from nodekit.testing import make_job, succeeded, with_output

pytestmark = pytest.mark.anyio


# -- whether it is kept ---------------------------------------------------------------------------


async def test_a_stream_that_is_accepted_is_not_refused_any_more() -> None:
    stream = JobStream(make_job())
    with anyio.move_on_after(0.01) as scope:
        await stream.accepted()
    assert scope.cancelled_caught
    stream.accept()
    stream.refuse(Unavailable("too late", retry_after_seconds=1))
    with anyio.fail_after(5):
        await stream.accepted()
    stream.leave()
    stream.end(stream.job)


async def test_a_stream_is_refused_for_the_first_reason() -> None:
    stream = JobStream(make_job())
    for reason in ("full", "stopped"):
        stream.refuse(Unavailable(reason, retry_after_seconds=1))
    with pytest.raises(Unavailable, match="full"):
        await stream.accepted()
    stream.leave()
    stream.end(stream.job)


# -- pieces ---------------------------------------------------------------------------------------


async def test_a_piece_is_sent_once_it_was_taken_and_nothing_before_it_is_asked_for() -> None:
    stream, told = JobStream(make_job()), []

    async def run() -> None:
        await stream.wanted()
        told.append("wanted")
        for piece in (b"a", b"b"):
            await stream.send(piece)
            told.append(piece.decode())
        stream.end(succeeded(stream.job))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await settle_down()
        assert told == []
        assert await anext(stream) == b"a"
        await settle_down()
        assert told == ["wanted", "a"]
        assert await read(stream) == [b"b"]
    stream.leave()


async def test_whoever_sends_to_nobody_waits_to_be_ended() -> None:
    stream = JobStream(make_job())
    stream.leave()
    with anyio.move_on_after(0.01) as scope:
        await stream.send(b"a")
    assert scope.cancelled_caught
    stream.end(stream.job)


@pytest.mark.parametrize("before", [True, False])
async def test_whoever_runs_it_is_told_when_its_reader_leaves_or_has_left(before: bool) -> None:
    stream, told = JobStream(make_job()), []
    if before:
        stream.leave()
    stream.when_left(lambda: told.append("left"))
    assert told == (["left"] if before else [])
    if not before:
        stream.leave()
    assert told == ["left"]
    stream.end(stream.job)


# -- its end --------------------------------------------------------------------------------------


async def test_what_no_step_streamed_comes_whole_and_once() -> None:
    stream, job = JobStream(make_job()), succeeded(make_job())
    stream.end(job, streamed=False)
    assert stream.job is job
    assert await read(stream) == [bytes(job.result.output)]
    assert await read(stream) == []
    stream.leave()


async def test_what_was_streamed_does_not_come_again() -> None:
    stream = JobStream(make_job())
    stream.end(succeeded(make_job()))
    assert await read(stream) == []
    stream.leave()


async def test_a_job_that_succeeds_without_a_result_is_a_stream_of_nothing() -> None:
    stream = JobStream(make_job())
    stream.end(make_job().finished(Outcome(JobStatus.SUCCESS), 1.0), streamed=False)
    assert await read(stream) == []
    stream.leave()


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED, None])
async def test_a_job_that_has_not_succeeded_breaks_its_stream_whatever_its_result(status: JobStatus | None) -> None:
    job = with_output(make_job())
    if status is not None:
        job = replace(job.finished(Outcome(status, job.results[-1]), 1.0))
    stream = JobStream(make_job())
    stream.end(job, streamed=False)
    for _ in range(2):
        with pytest.raises(StreamBroken) as raised:
            await read(stream)
        assert raised.value.job is job
    stream.leave()


# -- what is kept ---------------------------------------------------------------------------------


def kept(*pieces: bytes, most: int = MOST_KEPT_BYTES) -> Any:
    record = StreamRecord(most)
    for piece in pieces:
        record.add(piece)
    assert record.bytes == sum(map(len, pieces))
    return decode_payload(record.output())


def test_a_stream_of_no_more_than_is_kept_is_kept_whole() -> None:
    assert kept() == {"output": ""}
    assert kept(b"abc", b"", b"de", most=5) == kept(b"abcde", most=5) == {"output": "abcde"}


def test_of_a_longer_one_the_beginning_is_kept_with_how_long_it_was() -> None:
    for pieces in ((b"abcdef",), (b"abc", b"def"), (b"abcde", b"f"), (b"abcde", b"", b"f")):
        assert kept(*pieces, most=5) == {"output": "abcde", "truncated": True, "bytes": 6}
    assert kept(b"a", b"b", most=0) == {"output": "", "truncated": True, "bytes": 2}


def test_a_stream_without_an_end_takes_no_more_memory_than_is_kept() -> None:
    record = StreamRecord(1)
    for _ in range(10_000):
        record.add(b"x")
    assert len(pickle.dumps(record)) < 500
    assert decode_payload(record.output()) == {"output": "x", "truncated": True, "bytes": 10_000}


def test_a_letter_that_was_cut_is_left_out_and_one_that_is_none_makes_it_bytes() -> None:
    text = "aé".encode()
    assert kept(text, most=2) == {"output": "a", "truncated": True, "bytes": 3}
    assert kept(text[:2], text[2:]) == {"output": "aé"}
    assert kept(text[:2]) == {"output": b64encode(text[:2]).decode(), "encoding": "base64"}
    bytes_kept = {"output": b64encode(b"\xff").decode(), "encoding": "base64", "truncated": True, "bytes": 2}
    assert kept(b"\xff", b"a", most=1) == bytes_kept
