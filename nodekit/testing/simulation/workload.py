"""The jobs that the clients of a simulated cluster submit, and what their containers do."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import msgspec

from nodekit import ContainerId, JobRequest

_THEN = ("wait", "wait", "wait", "follow", "follow", "ask", "cancel", "cancel", "stream")

LONG = 0.07
"""Share of the steps that take from 4 to 10 seconds."""
WRONG = 0.05
"""Share of the jobs of which one step fails for good."""


class Script(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="script"):
    """The data of a job: what its containers do, by the index of the step.

    - `key`: Key of the job, as its client names it.
    - `seconds`: Duration of each call.
    - `failures`: Number of attempts that fail, each with a pause of so many seconds in `pauses` before the next one.
    - `kills`: Number of calls that end the node which makes them.
    - `wrong`: Index of a step that fails for good.
    - `poison`: Index of a step of which each call ends the node.
    """

    key: str
    seconds: Sequence[float]
    failures: Sequence[int] = ()
    pauses: Sequence[float] = ()
    kills: Sequence[int] = ()
    wrong: int | None = None
    poison: int | None = None

    def ends_node(self, step: int, earlier: int) -> bool:
        """Return True if a call ends the node, after so many earlier calls of the step."""
        return step == self.poison or (bool(self.kills) and earlier < self.kills[step])

    def fails(self, step: int, attempt: int) -> bool:
        """Return True if an attempt fails, and another one may succeed."""
        return bool(self.failures) and attempt <= self.failures[step]


class ScriptedOutput(msgspec.Struct, frozen=True, tag="output"):
    """The output of a container, and the input of the next one.

    - `call`: Number of the call that gave it.
    - `after`: Number of the call whose output was the input; 0: the job's data were.
    """

    script: Script
    call: int
    after: int = 0


encode = msgspec.json.Encoder().encode
decode_input = msgspec.json.Decoder(Script | ScriptedOutput).decode
decode_script = msgspec.json.Decoder(Script).decode
decode_output = msgspec.json.Decoder(ScriptedOutput).decode


@dataclass(frozen=True)
class PlannedJob:
    """A job that a client submits, and what the client does with it.

    - `at`: Time at which it is submitted.
    - `then`: Behaviour afterwards: `wait` or `follow` to its end, `ask` now and then, or wait and `cancel` it after a
      while. Or `stream`: read its output as it comes, and try again a few times.
    """

    at: float
    client: str
    containers: Sequence[ContainerId]
    script: Script
    then: str
    priority: int = 3

    @property
    def key(self) -> str:
        return self.script.key

    def request(self) -> JobRequest:
        return JobRequest(
            containers=tuple(self.containers),
            data=msgspec.Raw(encode(self.script)),
            client=self.client,
            priority=self.priority,
            idempotency_key=self.key,
        )


def draw_jobs(
    random: Random, *, jobs: int, clients: int, containers: Sequence[ContainerId], span: float, poison: float
) -> list[PlannedJob]:
    """Draw the jobs of all clients.

    `poison` is the share of jobs that end all nodes that run them. As many end a few nodes, and then go on.
    """
    drawn: list[PlannedJob] = []
    for number in range(jobs):
        steps = 1 + random.randrange(3)
        drawn.append(
            PlannedJob(
                at=round(random.random() * span, 3),
                client=f"client-{random.randrange(clients)}",
                containers=[containers[random.randrange(len(containers))] for _ in range(steps)],
                script=_draw_script(random, f"job-{number}", steps, poison),
                then=_THEN[random.randrange(len(_THEN))],
                priority=random.randrange(5) if random.random() < 0.2 else 3,
            )
        )
    return sorted(drawn, key=lambda job: (job.at, job.key))


def _draw_script(random: Random, key: str, steps: int, poison: float) -> Script:
    chance, index = random.random(), random.randrange(steps)
    few = WRONG + poison <= chance < WRONG + 2 * poison
    return Script(
        key=key,
        seconds=[_draw_seconds(random) for _ in range(steps)],
        failures=[1 + random.randrange(2) if random.random() < 0.1 else 0 for _ in range(steps)],
        pauses=[round(random.random(), 3) for _ in range(steps)],
        kills=[random.randrange(3) for _ in range(steps)] if few else (),
        wrong=index if chance < WRONG else None,
        poison=index if WRONG <= chance < WRONG + poison else None,
    )


def _draw_seconds(random: Random) -> float:
    """Draw the time that a step takes: mostly a moment, sometimes longer than a lease."""
    least, most = (4.0, 10.0) if random.random() < LONG else (0.0, 2.0)
    return round(least + random.random() ** 3 * (most - least), 3)
