"""The state of a run, and what runs need of their node."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar

from nodekit.concurrency.budget import Reservation
from nodekit.execution.container_calls import Calls
from nodekit.execution.slots import Slots
from nodekit.execution.suspects import Suspects
from nodekit.execution.transitions import Progress
from nodekit.interfaces.store import Claim, JobStore
from nodekit.model.container import ContainerId, JobId, Step
from nodekit.model.events import Event
from nodekit.model.job import Held


class Run:
    """The state of one job's run: its newest snapshot and the slot it holds."""

    stream_slots: ClassVar[bool] = False
    """True if its slots count among those that streams hold."""

    __slots__ = (
        "_began_at",
        "_monotonic",
        "claim",
        "cut_short",
        "delay_seconds",
        "due_step",
        "end_emitted",
        "group",
        "held",
        "instance",
        "job",
        "memory",
        "redecided",
        "step_to_emit",
    )

    def __init__(
        self,
        claim: Claim,
        monotonic: Callable[[], float],
        memory: Reservation,
        held: ContainerId | None = None,
    ) -> None:
        self.claim = claim
        self.memory = memory
        """The payloads of the job that are in memory, with their copies."""
        self.job = claim.job
        self.group = claim.job.group
        """Group that the node's slot counts for."""
        self.instance = ""
        """Instance that the last call reached, as far as its runner can name it."""
        self.held = held
        self._monotonic = monotonic
        self._began_at = monotonic() - claim.age_seconds
        self.redecided = False
        """True if the pipeline chose another container than the stored one, since the last step."""
        self.delay_seconds = 0.0
        """Seconds the job has to wait once it is given back."""
        self.cut_short: Held | None = None
        """The call that was under way when the run was cancelled."""
        self.due_step: Step | None = None
        """The step that is due, if the pipeline was asked since the job changed."""
        self.step_to_emit: int | None = None
        """Index of the step that has a result which is not stored and emitted yet."""
        self.end_emitted = False
        """True once the job's end was emitted."""

    @property
    def age_seconds(self) -> float:
        """Seconds of the job's time that have passed."""
        return self._monotonic() - self._began_at

    @property
    def seconds_left(self) -> float:
        """Seconds until the job's time is over."""
        timeout = self.job.timeout_seconds
        return math.inf if timeout is None else timeout - self.age_seconds


@dataclass(frozen=True)
class RunContext:
    """Everything that running jobs needs."""

    store: JobStore
    calls: Calls
    progress: Progress
    suspects: Suspects
    random: Callable[[], float]
    """Call this for a number from 0 to 1, for the random part of a delay."""
    refresh: Callable[[], Awaitable[object]] | None
    """Call this to look at the other nodes now; None: there are none."""
    slots: Slots
    changed: Callable[[], None]
    """Call this when slots may have become free."""
    look: Callable[[], None]
    """Call this when a container turned out not to run."""
    problems: dict[str, str]
    """Reasons why jobs do not progress right now, by what fails."""
    stops: Callable[[float], Awaitable[bool]]
    """Call this to learn if the node stops, now or within some seconds."""
    unsaved: set[JobId]
    """Jobs whose results the store fails to save right now, streams included."""
    emit: Callable[[Event], None]
    emit_started: Callable[[Event], None] | None
    """The same, or None if nobody observes: steps begin so often that the event is not even made."""
    under_way: dict[JobId, tuple[float, int, int, str]]
    """Calls that are under way, by job: when each began, the index of its step, the number of the attempt, and the
    instance."""
