"""Random sequences of what can be done with a `JobStore`, each compared with a model of plain Python.

Needs hypothesis, besides pytest. One method to define; a new place for jobs each time, and how to open a store on it::

    class TestMyStoreByItsModel(JobStoreModelContract):
        @asynccontextmanager
        async def place(self):
            with TemporaryDirectory() as folder:
                yield lambda: MyStore(folder)
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from nodekit import JobStore
from nodekit.testing.store_model.expected import Expected
from nodekit.testing.store_model.leaping_clock import LeapingClock
from nodekit.testing.store_model.operations import Operations

_OPERATION = st.one_of(st.just(b""), *[st.binary(min_size=12, max_size=48)] * 9)
"""What is done and with what, each choice by a byte; shorter is simpler."""


class JobStoreModelContract:
    """What no single test thinks of: operations that follow one another in an order that nobody expected."""

    max_examples: int = 500
    """How many sequences."""
    steps: int = 40
    """How many operations in one."""
    timeout_seconds: float = 2.0
    """How long anything that has to come may take."""
    durable: bool = True
    """Whether jobs outlive the store that kept them, at the same place."""
    derandomize: bool | None = None
    """Draw the same sequences each time; as the profile of hypothesis says unless set."""
    phases: tuple[Phase, ...] = tuple(phase for phase in Phase if phase is not Phase.explain)

    def place(self) -> AbstractAsyncContextManager[Callable[[], JobStore]]:
        """Where no jobs are; gives a function that makes a store there, not entered, again and again."""
        raise NotImplementedError("define `place`: an async context manager that gives a function that makes a store")

    def test_random_sequences_do_as_the_model_does(self) -> None:
        chosen = settings(
            max_examples=self.max_examples,
            phases=self.phases,
            derandomize=settings().derandomize if self.derandomize is None else self.derandomize,
            deadline=None,  # of a whole sequence with a real disk
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        )

        @chosen
        @given(st.lists(_OPERATION, min_size=self.steps, max_size=self.steps))
        def run(operations: list[bytes]) -> None:
            with LeapingClock() as clock:
                anyio.run(self._sequence, operations, clock)

        run()

    async def _sequence(self, steps: list[bytes], clock: LeapingClock) -> None:
        expected = Expected()
        async with (
            self.place() as new_store,
            Operations(clock, new_store, expected, timeout_seconds=self.timeout_seconds) as operations,
        ):
            await operations.run(steps, durable=self.durable, tell=note)
