"""Random sequences of operations on a `JobStore`, each compared with a model in plain Python.

Needs hypothesis besides pytest. Define one method, which gives a new place for jobs each time, and a function that
opens a store there::

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
"""Strategy for one operation and its arguments. Each byte makes one choice; hypothesis takes shorter bytes as
simpler."""


class JobStoreModelContract:
    """Suite of random operations in orders that no single test thinks of."""

    max_examples: int = 500
    """Number of sequences."""
    steps: int = 40
    """Number of operations in a sequence."""
    timeout_seconds: float = 2.0
    """Time limit for anything that must happen."""
    durable: bool = True
    """True if a store at the same place finds the jobs of the store before it."""
    derandomize: bool | None = None
    """True to draw the same sequences each time. None: the profile of hypothesis decides."""
    phases: tuple[Phase, ...] = tuple(phase for phase in Phase if phase is not Phase.explain)

    def place(self) -> AbstractAsyncContextManager[Callable[[], JobStore]]:
        """Give an empty place for jobs, as a function that makes a store there, not entered. It is called again and
        again."""
        raise NotImplementedError("define `place`: an async context manager that gives a function that makes a store")

    def test_random_sequences_do_as_the_model_does(self) -> None:
        chosen = settings(
            max_examples=self.max_examples,
            phases=self.phases,
            derandomize=settings().derandomize if self.derandomize is None else self.derandomize,
            deadline=None,  # a limit for a whole sequence on a real disk would be arbitrary
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
            await operations.run(steps, durable=self.durable, report=note)
