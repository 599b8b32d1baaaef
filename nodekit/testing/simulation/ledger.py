"""A ledger of what a cluster promised so far, and the check of everything that happens against it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

from nodekit import ContainerOutput, Job, JobId, JobStatus, NodekitError, NodeLimits, decode_payload
from nodekit.testing.simulation.containers import Call
from nodekit.testing.simulation.workload import PlannedJob, decode_output, decode_script


class PromiseBroken(NodekitError):
    """A cluster broke a promise. `promise` is its short name."""

    def __init__(self, promise: str, text: str) -> None:
        super().__init__(f"{promise}: {text}")
        self.promise = promise


@dataclass
class Known:
    """A job as clients know it.

    - `accepted_at`: Time of the first answer that accepted it.
    - `steps`: Number of results that were seen in an answer.
    - `ended`: The job as it was first seen finished.
    """

    accepted_at: float | None = None
    steps: int = 0
    ended: Job | None = None


@dataclass
class Outage:
    """A time in which a machine was out of touch, with `until` None while it lasts.

    - `stops`: True if its code did not run meanwhile.
    """

    machine: str
    since: float
    until: float | None = None
    at_once: bool = False
    stops: bool = False


@dataclass
class Ledger:
    """Jobs, calls and outages of one simulation.

    - `lease_seconds`: Time after which others may take over the jobs of a node that is out of touch. A node that was so
      for half of it may still believe in claims that it has lost.
    """

    now: Callable[[], float]
    lease_seconds: float
    limits: NodeLimits
    planned: Mapping[str, PlannedJob]
    jobs: dict[JobId, Known] = field(default_factory=dict[JobId, Known])
    keys: dict[str, JobId] = field(default_factory=dict[str, JobId])
    outages: list[Outage] = field(default_factory=list[Outage])
    stored: dict[tuple[JobId, int], float] = field(default_factory=dict[tuple[JobId, int], float])
    """Time at which a node said that the result of a step is stored."""
    calls: dict[tuple[JobId, int], list[Call]] = field(default_factory=lambda: defaultdict(list))
    ends: dict[JobId, Job] = field(default_factory=dict[JobId, Job])
    """Jobs as nodes said that they ended."""
    ended_at: dict[JobId, float] = field(default_factory=dict[JobId, float])
    """Time at which somebody first said that a job has ended."""
    cancelled: set[JobId] = field(default_factory=set[JobId])
    """Jobs that a client wanted to cancel."""
    dead: set[str] = field(default_factory=set[str])
    """Lives of nodes that have ended."""

    @property
    def abort_seconds(self) -> float:
        """Time in which a node learns that a job of its has ended, or that its lease is over."""
        return self.lease_seconds / 10

    # -- outages ----------------------------------------------------------------------------------

    def out(self, machine: str, *, at_once: bool = False, stops: bool = False) -> Outage:
        """Note that a machine is out of touch from now on."""
        outage = Outage(machine, self.now(), at_once=at_once, stops=stops)
        self.outages.append(outage)
        return outage

    def excused(self, machines: Sequence[str], since: float) -> bool:
        """Return True if one of the machines may have lost its claims after a time, without knowing it yet."""
        now, silent = self.now(), 0.0
        for outage in self.outages:
            until = now if outage.until is None else outage.until
            if outage.machine in machines and until >= since - self.lease_seconds / 4:
                silent += until - outage.since
                if outage.at_once or silent >= self.lease_seconds / 2:
                    return True
        return False

    def stopped(self, machine: str, since: float) -> bool:
        """Return True if the code of a machine did not run for a while, after a time or shortly before."""
        since -= self.lease_seconds / 4
        stops = [outage for outage in self.outages if outage.machine == machine and (outage.stops or outage.at_once)]
        return any(outage.until is None or outage.until >= since for outage in stops)

    def disturbed(self, machines: Sequence[str], since: float) -> bool:
        """Return True if one of the machines was out of touch after a time, however short."""
        return any(
            outage.machine in machines and (outage.until is None or outage.until >= since) for outage in self.outages
        )

    def gone(self, node: str) -> bool:
        """Return True if a life of a node has ended, so that its calls end nowhere."""
        return node in self.dead

    def lost_claims(self, since: float) -> int:
        """Return the number of times that a job may have lost its node after a time.

        An engine may learn of such a loss a lease later.
        """
        long = self.lease_seconds / 2
        return sum(
            (outage.until is None or outage.until >= since - 1.5 * self.lease_seconds)
            and (outage.at_once or (outage.until or self.now()) - outage.since >= long)
            for outage in self.outages
        )

    # -- calls ------------------------------------------------------------------------------------

    def call_began(self, call: Call) -> None:
        """Check that nobody else runs the step, and that it has no result yet."""
        self._check_poison(call)
        key, machines = (call.job, call.step), [_machine(call.node), "engine"]
        if (stored_at := self.stored.get(key)) is not None and not self.excused(machines, stored_at):
            raise PromiseBroken(
                "no stored step is repeated",
                f"{call.node} calls {call.container} for step {call.step} of {call.job}, whose result was stored at "
                f"{stored_at:.3f} s",
            )
        for other in self.calls[key]:
            # a node that is back may call on a claim that it lost meanwhile, and then nobody else knows of the pause
            since = other.began_at - self.lease_seconds / 2
            if other.retry_after and not self.disturbed([_machine(other.node), "engine"], since):
                earliest = (other.ended_at or 0.0) + other.retry_after
                if call.began_at < earliest - 0.001:
                    raise PromiseBroken(
                        "a container gets the pause it asks for",
                        f"step {call.step} of {call.job} is tried again {earliest - call.began_at:.3f} s early",
                    )
            runs = other.ended_at is None and other.node != call.node and not self.gone(other.node)
            if runs and not self.excused([*machines, _machine(other.node)], other.began_at):
                raise PromiseBroken(
                    "one node runs a step",
                    f"{call.node} calls {call.container} for step {call.step} of {call.job}, which {other.node} "
                    f"runs since {other.began_at:.3f} s",
                )
        self.calls[key].append(call)
        if (ended_at := self.ended_at.get(call.job)) is not None and call.began_at > ended_at + self.abort_seconds:
            self._check_aborted(call, ended_at, f"begins at {call.began_at:.3f} s")

    def call_ended(self, call: Call) -> None:
        """Check that the call did not go on after its job had ended."""
        ended_at = self.ended_at.get(call.job)
        if ended_at is not None and self.now() > ended_at + self.abort_seconds and not self.gone(call.node):
            self._check_aborted(call, ended_at, f"goes on until {self.now():.3f} s")

    def _check_aborted(self, call: Call, ended_at: float, text: str) -> None:
        if not self.disturbed([_machine(call.node), "engine"], ended_at - self.lease_seconds / 2):
            raise PromiseBroken(
                "an ended job is not run",
                f"{call.job} has ended at {ended_at:.3f} s, and a call of {call.container} by {call.node} {text}",
            )

    def check_alone(self, call: Call) -> None:
        """Check, some time after a call began, that nodes which ran all the time have given up their calls of the step.

        Such a node knows by its own clock that its lease is over, even if it reaches nobody.
        """
        for other in self.calls[call.job, call.step]:
            runs = other.ended_at is None and other.node != call.node and not self.gone(other.node)
            stopped = self.stopped("engine", other.began_at) or any(
                self.stopped(_machine(one.node), one.began_at) for one in (call, other)
            )
            if runs and call.ended_at is None and not stopped:
                raise PromiseBroken(
                    "one node runs a step",
                    f"{call.node} calls {call.container} for step {call.step} of {call.job} since {call.began_at:.3f} "
                    f"s, and {other.node}, whose lease is over, still runs it since {other.began_at:.3f} s",
                )

    # -- what nodes say ---------------------------------------------------------------------------

    def step_finished(self, job: Job, index: int) -> None:
        self.stored.setdefault((job.id, index), self.now())

    def job_finished(self, job: Job) -> None:
        before = self.ends.setdefault(job.id, job)
        self.ended_at.setdefault(job.id, self.now())
        _check_same("a job ends once", before, job, "a node said that it ended")
        self.answered(job)

    # -- what clients hear ------------------------------------------------------------------------

    def asked(self, id: JobId) -> Known:
        """Return what is known of a job now, for the check of an answer to a question that is asked now."""
        return copy(self.jobs.get(id, Known()))

    def accepted(self, key: str, job: Job) -> None:
        """Note that a client was told that its job is stored."""
        if self.keys.setdefault(key, job.id) != job.id:
            raise PromiseBroken("one key, one job", f"{key} gave {self.keys[key]} and then {job.id}")
        known = self.jobs.setdefault(job.id, Known())
        if known.accepted_at is None:
            known.accepted_at = self.now()
        self.answered(job)

    def streamed(self, job: Job) -> None:
        """Check the job of a stream that was read to its end."""
        self.answered(job)
        if job.status is not JobStatus.SUCCESS:
            raise PromiseBroken("a stream that ends is whole", f"{job.id} was read to its end, and is {job.status}")

    def answered(self, job: Job, before: Known | None = None) -> None:
        """Check an answer about a job against earlier ones. `before` is what was known when it was asked for."""
        known = self.jobs.setdefault(job.id, Known())
        steps = job.ended_steps
        if before is not None:
            if before.ended is not None and not job.status.finished:
                raise PromiseBroken("an end is final", f"{job.id} is {job.status} after it was {before.ended.status}")
            if steps < before.steps:
                raise PromiseBroken("a stored step stays", f"{job.id} has {steps} results, and had {before.steps}")
        known.steps = max(known.steps, steps)
        if job.status.finished:
            self.ended_at.setdefault(job.id, self.now())
            if known.ended is None:
                known.ended = job
            else:
                _check_same("a job ends once", known.ended, job, "an answer has")

    def missing(self, id: JobId) -> None:
        """Note that an answer says there is no such job."""
        if (known := self.jobs.get(id)) is not None and known.accepted_at is not None:
            raise PromiseBroken(
                "no accepted job is lost", f"{id} was accepted at {known.accepted_at:.3f} s; it is gone"
            )

    # -- the end ----------------------------------------------------------------------------------

    def check_outcome(self, job: Job) -> None:
        """Check that a finished job has the outcome that its data ask for, from calls that fit together."""
        script = decode_script(job.request.data)
        error = job.error.kind if job.error else None
        if job.status is JobStatus.CANCELLED and job.id in self.cancelled:
            return
        if error == "job_timeout" and self.limits.job_timeout_seconds is not None:
            if self.now() - self.planned[script.key].at < self.limits.job_timeout_seconds:
                raise PromiseBroken("a job has the time that it may take", f"{job.id} failed early: {job.error}")
            return
        if error == "status" and self.limits.job_timeout_seconds is not None and any(script.failures):
            return  # the time that is left may be too short for another attempt
        if error == "poison":
            self._check_lost(job)
            return
        if script.wrong is not None:
            right = job.status is JobStatus.FAILED and error == "status" and job.ended_steps == script.wrong + 1
        else:
            right = job.status is JobStatus.SUCCESS and script.poison is None
        if not right:
            raise PromiseBroken("a job does what it asks for", f"{job.id} is {job.status} ({job.error}); {script}")
        self._check_chain(job)

    def _check_lost(self, job: Job) -> None:
        """Check that a job which failed as poison was lost often enough since its last step was stored."""
        stored_at = self.stored.get((job.id, job.ended_steps - 1), 0.0)
        if (lost := self.lost_claims(stored_at)) < self.limits.max_takeovers:
            text = f"{job.id} failed as poison; since {stored_at:.3f} s it was lost {lost} times in a row at most"
            raise PromiseBroken("only poison fails as poison", text)

    def _check_poison(self, call: Call) -> None:
        """Check that poison is ended in time. An engine that was killed does not know how often it was lost before."""
        ended_nodes = len(self.calls[call.job, call.step])
        poison = self.planned[call.key].script.poison == call.step
        engines = 1 + sum(outage.machine == "engine" for outage in self.outages)
        if poison and ended_nodes >= self.limits.max_takeovers * engines:
            raise PromiseBroken("poison ends few nodes", f"{call.job} has ended {ended_nodes} nodes, and runs again")

    def _check_chain(self, job: Job) -> None:
        """Check that each output was made from the one before."""
        after = 0
        for index, step in enumerate(job.steps):
            if isinstance(step.result, ContainerOutput):
                output = decode_output(step.result.output)
                known = any(call.number == output.call for call in self.calls[job.id, index])
                if output.after != after or not known:
                    raise PromiseBroken(
                        "outputs follow each other",
                        f"step {index} of {job.id} has the output of call {output.call}, which was made from the "
                        f"one of call {output.after}, not {after}",
                    )
                after = output.call


def _machine(node: str) -> str:
    return node.partition("#")[0]


def _check_same(promise: str, before: Job, now: Job, who: str) -> None:
    if not before.ended_as(now) or before.without_earlier_outputs().steps != now.without_earlier_outputs().steps:
        raise PromiseBroken(promise, f"{before.id} was {_said(before)}, and {who} {_said(now)}")
    numbers = {job.finish_number for job in (before, now)} - {None}
    if len(numbers) > 1:
        raise PromiseBroken(promise, f"{before.id} finished under several numbers: {sorted(map(str, numbers))}")


def _said(job: Job) -> str:
    calls = [_call_of(result) if isinstance(result, ContainerOutput) else result.kind for result in job.results]
    return f"{job.status} at {job.finished_at} with the outputs of the calls {calls}"


def _call_of(output: ContainerOutput) -> object:
    """Return the number of the call that gave an output. An output that was streamed is a text, which has none."""
    value = decode_payload(output.output)
    return None if value is None else value.get("call", value)
