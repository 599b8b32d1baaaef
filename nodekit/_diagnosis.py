"""Whether a node works, from what its parts and plugins say."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nodekit._executor import Executor
from nodekit._health import Health
from nodekit._intake import Intake
from nodekit.runner import ContainerRunner
from nodekit.store import JobStore

if TYPE_CHECKING:
    from nodekit.node import Node


async def diagnosis(
    node: "Node",
    *,
    store: JobStore,
    runners: Sequence[ContainerRunner],
    executor: Executor,
    intake: Intake,
    told: Iterable[str],
) -> Health:
    """What keeps the node from working, before what is wrong in part: of its runners, and as `told` by plugins."""
    reasons = [problem for runner in runners for problem in runner.problems()]
    reasons += told
    fatal = [] if intake.open else ["the node is draining or has not started"]
    fatal += [*executor.problems.values(), *intake.trouble.reasons]
    if node.containers and not node.running():
        fatal.append("no container is running")
    try:
        await store.find(limit=1)
    except Exception as error:
        fatal.append(f"the store cannot be read: {error}")
    return Health(not fatal, (*fatal, *reasons))
