"""Test kit for authors of plugins: contracts as tests to subclass, leak detectors, builders, faults, and a clock.

Needs pytest. Each suite is a class with one fixture to define; `backends` says on which event loops it runs::

    class TestMyStore(JobStoreContract):
        backends = ("asyncio", "trio")

        @pytest.fixture
        async def store(self):
            async with MyStore() as store:
                yield store

`JobStoreModelContract`, in ``nodekit.testing.store_model``, compares random sequences with a model, by hypothesis.
Fixtures are in the plugin for pytest ``nodekit.testing.pytest_plugin``.
"""

import pytest

for _name in ("contracts", "store_model"):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")

from nodekit.testing.builders.components import make_function_runner, make_node, make_store, make_table  # noqa: E402
from nodekit.testing.builders.connections import make_connection  # noqa: E402
from nodekit.testing.builders.jobs import (  # noqa: E402
    SEQUENCE,
    make_attempt,
    make_job,
    make_request,
    make_step,
    succeeded,
    unnumbered,
    with_output,
)
from nodekit.testing.clock import VirtualClock  # noqa: E402
from nodekit.testing.contracts.backends import Contract  # noqa: E402
from nodekit.testing.contracts.pipelines.pipeline import PipelineContract  # noqa: E402
from nodekit.testing.contracts.plugins.guard import GuardContract  # noqa: E402
from nodekit.testing.contracts.plugins.hostile import HOSTILE_PAYLOADS, hostile_requests  # noqa: E402
from nodekit.testing.contracts.plugins.identity import IdentityContract  # noqa: E402
from nodekit.testing.contracts.plugins.observer import ObserverContract  # noqa: E402
from nodekit.testing.contracts.plugins.plugin import PluginContract  # noqa: E402
from nodekit.testing.contracts.plugins.step import StepContract  # noqa: E402
from nodekit.testing.contracts.runners.runner import ContainerRunnerContract  # noqa: E402
from nodekit.testing.contracts.runners.streaming import StreamingRunnerContract  # noqa: E402
from nodekit.testing.contracts.shared.fault_base import EngineControl  # noqa: E402
from nodekit.testing.contracts.shared.faults import EngineFaultContract  # noqa: E402
from nodekit.testing.contracts.shared.store import SharedStoreContract  # noqa: E402
from nodekit.testing.contracts.stores.durable import DurableJobStoreContract  # noqa: E402
from nodekit.testing.contracts.stores.store import JobStoreContract  # noqa: E402
from nodekit.testing.contracts.stores.table import JobTableContract  # noqa: E402
from nodekit.testing.contracts.transports.http import HttpTransportContract  # noqa: E402
from nodekit.testing.contracts.transports.transport import TransportContract  # noqa: E402
from nodekit.testing.faults.injection import Call, Crashed, Fault, Faults, Moment, Point, When  # noqa: E402
from nodekit.testing.faults.proxy import TcpProxy  # noqa: E402
from nodekit.testing.leaks.detectors import (  # noqa: E402
    no_leaked_descriptors,
    no_leaked_tasks,
    no_leaked_threads,
    no_leaks,
    unblocked_loop,
)
from nodekit.testing.shared_store.process import SharedServer  # noqa: E402
from nodekit.testing.shared_store.remote import SharedServerStore  # noqa: E402
from nodekit.testing.shared_store.store import SharedMemory  # noqa: E402

__all__ = [
    "HOSTILE_PAYLOADS",
    "SEQUENCE",
    "Call",
    "ContainerRunnerContract",
    "Contract",
    "Crashed",
    "DurableJobStoreContract",
    "EngineControl",
    "EngineFaultContract",
    "Fault",
    "Faults",
    "GuardContract",
    "HttpTransportContract",
    "IdentityContract",
    "JobStoreContract",
    "JobTableContract",
    "Moment",
    "ObserverContract",
    "PipelineContract",
    "PluginContract",
    "Point",
    "SharedMemory",
    "SharedServer",
    "SharedServerStore",
    "SharedStoreContract",
    "StepContract",
    "StreamingRunnerContract",
    "TcpProxy",
    "TransportContract",
    "VirtualClock",
    "When",
    "hostile_requests",
    "make_attempt",
    "make_connection",
    "make_function_runner",
    "make_job",
    "make_node",
    "make_request",
    "make_step",
    "make_store",
    "make_table",
    "no_leaked_descriptors",
    "no_leaked_tasks",
    "no_leaked_threads",
    "no_leaks",
    "succeeded",
    "unblocked_loop",
    "unnumbered",
    "with_output",
]
