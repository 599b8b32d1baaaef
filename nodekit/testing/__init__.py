"""For authors of plugins: what a store or a runner promises, as tests to subclass; builders; faults; a clock to move.

Needs pytest. Each suite is a class with one fixture to define; choose event loops with an ``anyio_backend`` fixture::

    class TestMyStore(JobStoreContract):
        @pytest.fixture
        async def store(self):
            async with MyStore() as store:
                yield store

`JobStoreModelContract`, in ``nodekit.testing.model``, compares random sequences with a model; it needs hypothesis too.
"""

import pytest

for _name in (
    *("keeping", "tables", "claiming", "finishing", "expiring", "stores", "durable", "runners", "streaming"),
    *("_turns", "_choices", "_expected", "_trial", "_operations", "model"),
):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")

from nodekit.testing.clock import VirtualClock  # noqa: E402
from nodekit.testing.durable import DurableJobStoreContract  # noqa: E402
from nodekit.testing.faults import Call, Crashed, Fault, Faults, Moment, Point, When  # noqa: E402
from nodekit.testing.jobs import make_attempt, make_job, make_request, make_step, succeeded, with_output  # noqa: E402
from nodekit.testing.runners import ContainerRunnerContract  # noqa: E402
from nodekit.testing.stores import JobStoreContract  # noqa: E402
from nodekit.testing.streaming import StreamingRunnerContract  # noqa: E402
from nodekit.testing.tables import JobTableContract  # noqa: E402

__all__ = [
    "Call",
    "ContainerRunnerContract",
    "Crashed",
    "DurableJobStoreContract",
    "Fault",
    "Faults",
    "JobStoreContract",
    "JobTableContract",
    "Moment",
    "Point",
    "StreamingRunnerContract",
    "VirtualClock",
    "When",
    "make_attempt",
    "make_job",
    "make_request",
    "make_step",
    "succeeded",
    "with_output",
]
