"""Promises of a `ContainerRunner`."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import anyio
import pytest

from nodekit import ContainerFailed, ContainerId, ContainerOutput, ContainerRunner, NamingRunner, Step
from nodekit.testing.builders.jobs import make_step
from nodekit.testing.contracts.backends import Contract
from nodekit.testing.contracts.stores.keeping import ODD_PAYLOAD
from nodekit.testing.leaks.detectors import no_leaks, unblocked_loop


class ContainerRunnerContract(Contract):
    """Suite of a runner. Define the fixture `runner`: not entered yet, with containers that behave as described
    below."""

    echo: ContainerId = "echo"
    """Container that returns its `data`."""
    fail: ContainerId = "fail"
    """Container that fails each step in a way that the runner can see."""
    slow: ContainerId = "slow"
    """Container that takes longer than a minute. Other containers, and other calls of this one, go on meanwhile."""
    opaque: bool = True
    """True if payloads pass unchanged; False for a runner that decodes them."""
    timeout_seconds: float = 20.0
    """Time limit for anything that must happen, including entering."""
    prompt_seconds: float = 5.0
    """Time limit for giving up a call."""

    @pytest.fixture
    def runner(self) -> ContainerRunner:
        raise NotImplementedError("define a fixture `runner` that gives a runner that was not entered yet")

    def nothing_is_left(self, runner: ContainerRunner) -> bool:
        """Return True if an exited runner left nothing behind. Override it if the runner can leave something."""
        return True

    async def outcome(self, runner: ContainerRunner, step: Step) -> ContainerOutput:
        with anyio.fail_after(self.timeout_seconds):
            return await runner.run(step)

    async def test_containers_are_known_before_it_is_entered_and_fixed(self, runner: ContainerRunner) -> None:
        containers = dict(runner.containers)
        assert containers.keys() >= {self.echo, self.fail, self.slow}
        assert all(container.id == id for id, container in containers.items())
        async with runner:
            assert dict(runner.containers) == containers

    async def test_entered_means_that_containers_can_be_called(self, runner: ContainerRunner) -> None:
        async with runner:
            assert {self.echo, self.fail, self.slow} <= set(runner.running()) <= runner.containers.keys()
            assert list(runner.problems()) == []

    async def test_run_gives_the_output_and_names_where_it_came_from(self, runner: ContainerRunner) -> None:
        data: dict[str, Any] = {"text": "grüße", "list": [1, None, True, 1.5], "nested": {"a": {}}}
        async with runner:
            named = cast(NamingRunner, runner).instance(self.echo) if hasattr(runner, "instance") else ""
            output = await self.outcome(runner, make_step(self.echo, data))
        assert output.container == self.echo
        assert output.value == data
        assert output.instance, "the output does not name the instance that gave it"
        assert named in ("", output.instance), "`instance` names another instance than the one that is called"

    async def test_changed_waits_while_nothing_changes(self, runner: ContainerRunner) -> None:
        async with runner:
            with anyio.move_on_after(0.1) as scope:
                await runner.changed()
            assert scope.cancelled_caught, (
                "changed() returned although nothing changed: its caller would loop without a pause"
            )

    async def test_any_json_value_can_be_an_output(self, runner: ContainerRunner) -> None:
        values: list[Any] = [None, False, 0, "", [], {}, "text", [[]]]
        async with runner:
            outputs = [await self.outcome(runner, make_step(self.echo, {"value": value})) for value in values]
        assert [output.value for output in outputs] == [{"value": value} for value in values]

    async def test_a_failure_is_a_container_failed_that_says_why(self, runner: ContainerRunner) -> None:
        async with runner:
            for _ in range(2):
                with pytest.raises(ContainerFailed) as raised:
                    await self.outcome(runner, make_step(self.fail))
                assert raised.value.text.strip()
                assert raised.value.kind
            assert (await self.outcome(runner, make_step(self.echo, {"after": 1}))).value == {"after": 1}

    async def test_calls_at_the_same_time_do_not_mix_their_results(self, runner: ContainerRunner) -> None:
        wrong: list[tuple[int, Any]] = []

        async def call(number: int) -> None:
            value = (await self.outcome(runner, make_step(self.echo, {"number": number}))).value
            if value != {"number": number}:
                wrong.append((number, value))

        async with runner, anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(call, number)
        assert wrong == []

    async def test_a_slow_call_does_not_hold_up_others(self, runner: ContainerRunner) -> None:
        async with runner, anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, make_step(self.slow))
            await anyio.sleep(0.05)
            assert (await self.outcome(runner, make_step(self.echo, {"a": 1}))).value == {"a": 1}
            tasks.cancel_scope.cancel()

    async def test_cancelling_a_call_gives_it_up_at_once(self, runner: ContainerRunner) -> None:
        async with runner:
            for pause in (0.0, 0.01, 0.2):
                with anyio.fail_after(pause + self.prompt_seconds), anyio.move_on_after(pause):
                    await runner.run(make_step(self.slow))
                    raise AssertionError("the container that should be slow was not")
                assert (await self.outcome(runner, make_step(self.echo, {"a": 1}))).value == {"a": 1}

    async def test_large_payloads_pass(self, runner: ContainerRunner) -> None:
        data = {"large": "x" * 1_000_000}
        async with runner:
            assert (await self.outcome(runner, make_step(self.echo, data))).value == data

    async def test_digits_and_duplicate_keys_pass_unchanged(self, runner: ContainerRunner) -> None:
        if not self.opaque:
            pytest.skip("this runner decodes payloads")
        async with runner:
            output = await self.outcome(runner, make_step(self.echo, ODD_PAYLOAD))
        assert bytes(output.output) == bytes(ODD_PAYLOAD)

    async def test_exit_leaves_nothing_behind(self, runner: ContainerRunner) -> None:
        async with runner:
            await self.outcome(runner, make_step(self.echo))
        assert self.nothing_is_left(runner)

    async def test_exit_leaves_no_tasks_descriptors_or_threads(self, runner: ContainerRunner) -> None:
        async with no_leaks(grace_seconds=self.prompt_seconds), runner:
            await self.outcome(runner, make_step(self.echo, {"a": 1}))
            with suppress(Exception):  # another test reports this error
                await self.outcome(runner, make_step(self.fail))
            with anyio.move_on_after(0.05):
                await runner.run(make_step(self.slow))
        assert self.nothing_is_left(runner)

    async def test_calls_do_not_block_the_event_loop(self, runner: ContainerRunner) -> None:
        data = {"text": "x" * 100_000}
        async with runner, unblocked_loop(), anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(self.outcome, runner, make_step(self.echo, data))

    @pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
    async def test_exit_works_while_it_is_being_cancelled(self, runner: ContainerRunner, busy: bool) -> None:
        async def call() -> None:
            await runner.run(make_step(self.slow))

        with anyio.fail_after(self.timeout_seconds), anyio.CancelScope() as scope:
            async with runner:
                await self._begin(call if busy else anyio.sleep_forever, scope)
        assert scope.cancelled_caught
        assert self.nothing_is_left(runner)

    async def _begin(self, call: Callable[[], Any], scope: anyio.CancelScope) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await anyio.sleep(0.05)
            scope.cancel()

    async def test_an_error_inside_comes_back_as_it_is(self, runner: ContainerRunner) -> None:
        class Boom(Exception):
            pass

        with pytest.raises(Boom):
            async with runner:
                raise Boom
        assert self.nothing_is_left(runner)
