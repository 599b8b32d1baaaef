"""For authors of plugins: what a store or a runner promises, as tests to subclass, and builders for jobs and steps.

Needs pytest. Each suite is a class with one fixture to define; choose event loops with an ``anyio_backend`` fixture::

    class TestMyStore(JobStoreContract):
        @pytest.fixture
        async def store(self):
            async with MyStore() as store:
                yield store
"""

import pytest

for _name in ("keeping", "tables", "claiming", "finishing", "stores", "durable", "runners"):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")

from nodekit.testing.durable import DurableJobStoreContract  # noqa: E402
from nodekit.testing.jobs import make_attempt, make_job, make_request, make_step, succeeded, with_output  # noqa: E402
from nodekit.testing.runners import ContainerRunnerContract  # noqa: E402
from nodekit.testing.stores import JobStoreContract  # noqa: E402
from nodekit.testing.tables import JobTableContract  # noqa: E402

__all__ = [
    "ContainerRunnerContract",
    "DurableJobStoreContract",
    "JobStoreContract",
    "JobTableContract",
    "make_attempt",
    "make_job",
    "make_request",
    "make_step",
    "succeeded",
    "with_output",
]
