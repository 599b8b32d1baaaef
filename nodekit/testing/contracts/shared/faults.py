"""Promises of a `SharedStore` whose connection breaks, and whose engine dies."""

from nodekit.testing.contracts.shared.fault_calls import FaultCalls
from nodekit.testing.contracts.shared.fault_claims import FaultClaims
from nodekit.testing.contracts.shared.fault_nodes import FaultNodes
from nodekit.testing.contracts.shared.fault_restarts import FaultRestarts


class EngineFaultContract(FaultCalls, FaultClaims, FaultRestarts, FaultNodes):
    """Suite of a shared store that reaches its engine by TCP. Define the fixtures `engine` and `open_at`.

    The suite puts a `TcpProxy` between one store and the engine, and breaks it. Connections are dropped, half open,
    hanging, slow or refused, or lose the engine's answers. The engine is killed and started again, or takes no writes::

        class TestMyStoreWhenItsEngineFails(EngineFaultContract):
            @pytest.fixture
            def engine(self, tmp_path):
                with MyEngine(tmp_path) as engine:
                    yield engine

            @pytest.fixture
            def open_at(self):
                return lambda host, port: MyStore(host, port, lease_seconds=self.lease_seconds)

    `engine` is an `EngineControl` of an engine that runs, and has no jobs when a test begins. `open_at` returns a store
    that is not entered yet. An engine that cannot be killed or be read-only sets `can_kill` or `can_be_read_only` to
    False. All promises of `SharedStoreContract` hold as well: run that suite, too.
    """
