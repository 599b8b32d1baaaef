"""Jobs that are too large to be in memory with all their outputs: what is claimed, left out, and read in part."""

from msgspec.structs import replace

from nodekit import (
    LEFT_OUT,
    Claim,
    ClaimRoom,
    ContainerError,
    JobFields,
    JobStatus,
    JobStore,
    Outcome,
    decode_payload,
    output_of,
)
from nodekit.testing.builders.jobs import SEQUENCE, make_attempt, make_job, make_retry, with_output
from nodekit.testing.contracts.stores.base import StoreBase


class LargeJobs(StoreBase):
    """Tests of `JobStoreContract` about payloads that are not read, or not given to the store again."""

    async def test_claim_gives_jobs_whose_payloads_have_room_together(self, store: JobStore) -> None:
        """A single job may have more: nobody could run it otherwise."""
        jobs = [make_job(data={"x": "y" * 1000}) for _ in range(5)]
        await store.add(jobs)
        claims: list[Claim] = []
        for most, number in ((2 * jobs[0].payload_bytes, 2), (1, 1)):
            while len(claims) < 3:
                some = await store.claim(["echo"], SEQUENCE, 5, room=ClaimRoom(5, most_bytes=most))
                assert 0 < len(some) <= number, f"jobs of {jobs[0].payload_bytes} bytes each, with room for {most}"
                claims += some
        claims += await self.claims(store, 5 - len(claims))
        assert {claim.job.id for claim in claims} == {job.id for job in jobs}

    async def test_outputs_that_are_left_out_stay_as_they_were_stored(self, store: JobStore) -> None:
        [claim] = [await self.claimed(store, make_job("echo", "echo", "echo", "echo"))]
        whole = claim.job
        for number in range(3):
            whole = with_output(whole, {"number": number})
            await store.save(claim, with_output(claim.job, {"number": number}).without_earlier_outputs())
        whole = with_output(whole, {"number": 3})
        await store.release(claim, with_output(claim.job, {"number": 3}).without_earlier_outputs())
        [job] = await store.get([whole.id])
        assert [decode_payload(output_of(result) or LEFT_OUT) for result in job.results] == [
            {"number": number} for number in range(4)
        ]
        [again] = await self.claims(store, 1)
        assert again.job.without_earlier_outputs() == job.without_earlier_outputs()

    async def test_steps_gives_those_from_a_place_on_that_have_room(self, store: JobStore) -> None:
        job = make_job("echo", "echo", "echo")
        for number in range(2):
            job = with_output(job, {"number": number, "x": "y" * 1000})
        job = job.with_failure("echo", make_attempt(kind="timeout", failure="late"))
        await store.add([job, other := make_retry()])
        assert tuple(await store.steps(job.id, 0, 1 << 20)) == job.steps
        for first in range(3):
            some = tuple(await store.steps(job.id, first, 0))
            assert some, "at least one step"
            assert some == job.steps[first : first + len(some)]
        assert tuple(await store.steps(job.id, 3, 1 << 20)) == ()
        assert tuple(await store.steps(other.id, 0, 1 << 20)) == other.steps
        assert tuple(await store.steps(make_job().id, 0, 1 << 20)) == ()

    async def test_a_retry_has_the_outputs_that_are_left_out_in_it(self, store: JobStore) -> None:
        [claim] = [await self.claimed(store, make_job("echo", "echo", "echo", "echo"))]
        for number in range(3):
            await store.save(claim, with_output(claim.job, {"number": number}))
        error = ContainerError(container="echo", error="no")
        await store.save(claim, claim.job.finished(Outcome(JobStatus.FAILED, error), claim.job.accepted_at))
        [old] = await store.get([claim.job.id], fields=JobFields.RUN)
        light = old.without_earlier_outputs()
        again = replace(make_job("echo", "echo", "echo", "echo").retrying(light, "failed"), due="echo")
        await store.add([again])
        [job] = await store.get([again.id])
        assert [decode_payload(output_of(result) or LEFT_OUT) for result in job.results] == [
            {"number": number} for number in range(3)
        ]
        await store.delete([old.id])
        assert await store.get([again.id]) == [job]
