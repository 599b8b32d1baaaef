"""The health of a node, as its components and plugins report it. A component that cannot answer is a problem."""

import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

from nodekit.concurrency.budget import Budget
from nodekit.errors import StoreFailed
from nodekit.execution.executor import Executor
from nodekit.foreign_text import printable
from nodekit.interfaces.component_calls import Running, asked, said
from nodekit.interfaces.store import JobStore
from nodekit.model.counting import counted
from nodekit.model.queries import JobQuery
from nodekit.node.admission import Admission
from nodekit.node.cluster import Cluster
from nodekit.node.health import Health

logger = logging.getLogger("nodekit.node")


async def diagnosis(
    store: JobStore,
    running: Running,
    executor: Executor,
    admission: Admission,
    cluster: Cluster,
    budget: Budget,
    reported: Iterable[str],
) -> Health:
    """Return the node's health. Reasons that stop the node come first, then those `reported` by runners and plugins."""
    up = running.look()
    reasons = [*running.reported(), *cluster.problems(), *reported]
    if budget.waiting:
        calls = counted(budget.waiting, "call", "waits", "wait")
        reasons.append(f"the budget of [node] memory is used up; {calls} for some of it")
    fatal = [] if admission.open else ["the node is draining or has not started"]
    fatal += [*executor.problems.values(), *admission.trouble.reasons]
    if full := admission.disk.full():
        fatal.append(f"no new jobs are taken: {full}")
    if executor.containers and not up:
        fatal.append("no container is running")
    checked: Any = store
    check = checked.check if hasattr(store, "check") else partial(store.find, JobQuery(limit=1))
    try:
        await asked(check)
    except StoreFailed as error:
        logger.error("the store cannot be read: %s", said(error), exc_info=error.__cause__)
        fatal.append(f"the store cannot be read: {said(error)}")
    return Health(not fatal, tuple(map(printable, (*fatal, *reasons))))
