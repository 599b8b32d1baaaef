"""The work of a node on a chain: one node of a cluster at a time watches, begins jobs, and delivers."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import anyio
from anyio.abc import TaskGroup

from nodekit import JobId, Node, NodekitError, PluginStorage, Unavailable
from nodekit_chain.account.sender import AccountSender
from nodekit_chain.protocol.address import Address
from nodekit_chain.rpc.questions import Rpc
from nodekit_chain.watching.pipelines import PipelineTable
from nodekit_chain.watching.watcher import OtherChain, View, Watcher, WatchSettings
from nodekit_chain.work.context import Context, Overtaken, Rules
from nodekit_chain.work.delivering import Deliveries
from nodekit_chain.work.intake import Intake
from nodekit_chain.work.jobs import Jobs, follow
from nodekit_chain.work.lease import Lease
from nodekit_chain.work.ledger import Entry, Ledger
from nodekit_chain.work.records import State, Work, by_state
from nodekit_chain.work.settings import WorkSettings
from nodekit_chain.work.standing import Standing, standing
from nodekit_chain.work.status import Status, keep_status, read_status
from nodekit_chain.work.tracking import Tracking

logger = logging.getLogger("nodekit.chain")

AT_ONCE = 16
"""Records that are worked on at the same time, apart from their jobs."""
LONGEST_PAUSE_SECONDS = 30.0
FORGET_SECONDS = 3600.0
STATUS_SECONDS = 5.0


class Engine:
    """Serves the subscriptions of one coordinator, while it `run`s and holds the lease."""

    def __init__(
        self,
        node: Node,
        storage: PluginStorage,
        *,
        rpc: Rpc,
        sender: AccountSender,
        rules: Rules,
        coordinator: Address,
        reader: Address,
        pipelines: PipelineTable,
        watch: WatchSettings,
        work: WorkSettings,
    ) -> None:
        self._node, self._storage = node, storage
        self._watch_settings, self._settings = watch, work
        self._lease = Lease(node, storage, work.lease_seconds)
        self._context = Context(
            node=node,
            rpc=rpc,
            sender=sender,
            rules=rules,
            coordinator=coordinator,
            reader=reader,
            ledger=Ledger(storage),
            settings=work,
        )
        depth = max(work.confirmations, watch.trail_head_blocks + 1)  # a fork below it is noticed by the watch
        self._jobs, self._deliveries = Jobs(self._context), Deliveries(self._context)
        self._tracking = Tracking(self._context, self._deliveries, depth=depth)
        self._intake = Intake(self._context, pipelines)
        self._watcher = self._new_watcher()
        self._limiter = anyio.Semaphore(AT_ONCE)
        self._wake = anyio.Event()
        self._ended: set[JobId] = set()
        """Jobs that have ended and whose output was not taken yet."""
        self._look_at_all = True
        """True if the ends of some jobs may have been missed."""
        self._busy: set[str] = set()
        self._pauses: dict[str, tuple[float, float]] = {}
        """Monotonic time of the next attempt, and the pause before it, of records that could not be worked on."""
        self._tried: dict[str, str] = {}
        """Hash of the block with which the delivery of a record was tried last, by key."""
        self._undone: View | None = None
        self._overtaken, self._trouble, self._failures = False, "", 0
        self._is_other_chain = False
        self._seen_at = -math.inf
        self._status_at = self._forgotten_at = -math.inf

    # -- what the plugin asks ---------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """True if this node is the one that watches and sends."""
        return self._lease.held

    @property
    def view(self) -> View | None:
        """The chain as this node has seen it last; None if it does not watch."""
        return self._watcher.view

    def problems(self) -> Sequence[str]:
        """Return what is wrong, for `/health`."""
        if not self._trouble:
            return [problem for problem in (self._tracking.problem, self._deliveries.problem) if problem]
        return [f"the chain cannot be followed: {self._trouble}; {self._last_seen()}"]

    def _last_seen(self) -> str:
        seconds = self._node.clock.monotonic() - self._seen_at
        return f"the last block was seen {seconds:.0f} s ago" if math.isfinite(seconds) else "no block was seen yet"

    async def accept(self, work: Work) -> bool:
        """Keep a delegated subscription, durably. Return False if there is a record of its owner and nonce already.

        Any node of a cluster may do so; the one that leads serves it. Raise `Unavailable` if it cannot be served, since
        the endpoints serve another chain than before.
        """
        if self._is_other_chain:
            raise Unavailable("the chain was replaced by another", retry_after_seconds=int(LONGEST_PAUSE_SECONDS))
        if not self.leads:
            return await self._context.ledger.create(work) is not None
        created = await self._context.create(work)
        self._wake.set()
        return created

    async def accepted(self, key: str) -> Work | None:
        """Return the record under a key."""
        entry = await self._context.ledger.get(key)
        return None if entry is None else entry.work

    async def run(self) -> None:
        """Watch and work for ever, whenever this node has the lease. No fault of an endpoint or a store ends it."""
        try:
            while True:
                if not await self._lease.take():
                    await anyio.sleep(self._settings.lease_seconds / 3)
                    continue
                try:
                    await self._lead()
                except Overtaken:
                    logger.warning("another node may work on the chain, too; the records are read again")
                except Exception as error:
                    self._failed(error)
                    await anyio.sleep(self._pause())
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                await self._lease.leave()

    # -- leading ----------------------------------------------------------------------------------

    def _new_watcher(self, status: Status | None = None) -> Watcher:
        """Return a watcher of the chain that an earlier one has followed, by the `status` that it has left."""
        genesis, newest = ("", 0) if status is None else (status.genesis, status.latest)
        rpc, coordinator, reader = self._context.rpc, self._context.coordinator, self._context.reader
        return Watcher(rpc, coordinator, reader, self._watch_settings, genesis=genesis, newest=newest)

    async def _lead(self) -> None:
        self._context.entries.clear()
        self._overtaken, self._undone = False, None
        self._ended.clear()
        self._tried.clear()
        self._pauses.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew, tasks.cancel_scope)
            tasks.start_soon(follow, self._node, self._job_ended)
            await self._watch(tasks)
            tasks.cancel_scope.cancel()
        if self._overtaken:
            raise Overtaken

    async def _renew(self, scope: anyio.CancelScope) -> None:
        while True:
            await anyio.sleep(self._settings.lease_seconds / 3)
            if not await self._lease.take():
                logger.warning("another node has the lease of the chain; this one stops watching")
                scope.cancel()

    async def _watch(self, tasks: TaskGroup) -> None:
        begun = False
        while not self._overtaken:
            try:
                if not begun:  # here, where the lease is renewed meanwhile
                    await self._begin()
                    begun = True
                if (view := await self._watcher.look()) is not None:
                    self._undone = view.after(self._undone)
                self._seen_at = self._node.clock.monotonic()
                if self._undone is not None:
                    await self._block(self._undone)
                self._undone, self._trouble, self._failures, self._is_other_chain = None, "", 0, False
            except Overtaken:  # not raised here: a group of tasks would wrap it
                self._overtaken = True
            except NodekitError as error:
                self._failed(error)
                await anyio.sleep(self._pause())
                continue
            until = self._node.clock.monotonic() + self._settings.poll_seconds
            while not self._overtaken:
                self._tick(tasks)
                self._wake = anyio.Event()
                with anyio.move_on_after(max(0.0, until - self._node.clock.monotonic())) as scope:
                    await self._wake.wait()
                if scope.cancelled_caught:
                    break

    async def _begin(self) -> None:
        await self._refresh()
        self._watcher = self._new_watcher(await read_status(self._storage))

    async def _block(self, view: View) -> None:
        if view.fork is not None:
            await self._reopen(view.fork)
        await self._refresh()
        await self._intake.look(view, self._watcher.catalogue)
        await self._tracking.look(view, self._watcher.catalogue)
        await self._keep_house(view)

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, NodekitError):
            logger.error("the work on the chain has failed, and begins again", exc_info=error)
        elif not self._trouble:
            logger.warning("the chain cannot be followed: %s", error)
        self._trouble = str(error) if isinstance(error, NodekitError) else f"{type(error).__name__}; the log has it"
        self._failures += 1
        self._is_other_chain = isinstance(error, OtherChain)

    def _pause(self) -> float:
        longest: float = min(LONGEST_PAUSE_SECONDS, self._settings.poll_seconds * 2 ** min(self._failures, 10))
        return longest * self._node.random.uniform(0.5, 1)

    # -- records ----------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Read the records that other nodes have made, or an earlier life of this one."""
        for key in await self._context.ledger.open_keys(f"{self._context.coordinator}/"):
            if key not in self._context.entries:
                await self._context.read_again(key)
                self._look_at_job(key)
        self._check_lease()

    def _look_at_job(self, key: str) -> None:
        """Take the end of a record's job for missed: it may have ended before the record was known here."""
        entry = self._context.entries.get(key)
        if entry is not None and entry.work.state is State.RUNNING:
            self._ended.add(entry.work.job)

    def _check_lease(self) -> None:
        """Raise `Overtaken` if the lease has run out: other nodes may know the chain better than an old view."""
        if not self._lease.held:
            raise Overtaken

    async def _reopen(self, fork: int) -> None:
        """Send again what was done in blocks that have left the chain."""
        async for entry in self._context.ledger.all(f"{self._context.coordinator}/"):
            if entry.work.state in (State.DONE, State.CONFIRMED) and entry.work.block > fork:
                logger.warning("%s was done in a block that has left the chain; it is sent again", entry.work.key)
                await self._context.change(entry, entry.work.reopened(self._node.now()))

    def _job_ended(self, id: JobId | None) -> None:
        if id is None:
            self._look_at_all = True
        else:
            self._ended.add(id)
        self._wake.set()

    def _tick(self, tasks: TaskGroup) -> None:
        """Begin what can be done now."""
        view = self._watcher.view
        if view is None:
            return
        all, self._look_at_all = self._look_at_all, False
        running: set[JobId] = set()
        for key, entry in list(self._context.entries.items()):
            if entry.work.state is State.RUNNING:
                running.add(entry.work.job)
            judged = standing(entry.work, self._watcher.catalogue, view.latest.timestamp).standing
            if key in self._busy or self._rests(key) or judged is Standing.UNREAD:
                # a job may have been read before its end was missed
                self._look_at_all |= all and entry.work.state is State.RUNNING
            elif self._ready(entry.work, view, unwanted=judged is not Standing.WANTED, all=all):
                self._busy.add(key)
                tasks.start_soon(self._step, key, view)
        self._ended &= running

    def _rests(self, key: str) -> bool:
        return self._pauses.get(key, (0.0, 0.0))[0] > self._node.clock.monotonic()

    def _ready(self, work: Work, view: View, *, unwanted: bool, all: bool) -> bool:
        match work.state:
            case State.SEEN:
                active = work.subscription.is_active(view.latest.timestamp)
                return unwanted or (active and work.not_before <= self._node.now())
            case State.RUNNING:
                return unwanted or all or work.job in self._ended
            case State.OUTPUT:
                tried = self._tried.get(work.key) == view.latest.hash
                if unwanted or tried or work.not_before > self._node.now():
                    return unwanted
                return not self._context.is_outpaced(work, self._busy)
            case _:
                return False

    async def _step(self, key: str, view: View) -> None:
        """Do the next thing for a record. Whatever fails, others go on."""
        try:
            async with self._limiter:
                self._check_lease()
                if (entry := self._context.entries.get(key)) is not None:
                    await self._advance(entry, view)
            self._pauses.pop(key, None)
        except Overtaken:
            self._overtaken = True
        except NodekitError as error:
            self._put_off(key, error)
        except Exception as error:
            logger.exception("the work on %s has failed", key)
            await self._blame(key, error)
        finally:
            self._busy.discard(key)
            self._wake.set()

    async def _advance(self, entry: Entry, view: View) -> None:
        work = entry.work
        judged = standing(work, self._watcher.catalogue, view.latest.timestamp)
        if judged.standing is Standing.UNREAD:
            return
        if judged.standing is not Standing.WANTED:
            if work.state is State.RUNNING:
                await self._node.cancel(work.job)
            await self._context.unwanted(entry, judged, view.latest.timestamp)
        elif work.state is State.SEEN:
            await self._jobs.begin(entry, view)
            self._look_at_job(work.key)
        elif work.state is State.RUNNING:
            self._ended.discard(work.job)  # before the look: it may end meanwhile
            await self._jobs.take(entry)
        elif work.state is State.OUTPUT:
            self._tried[work.key] = view.latest.hash
            await self._deliveries.deliver(entry, view)

    def _put_off(self, key: str, error: NodekitError) -> None:
        """Try a record again after a pause: an endpoint or the store has failed, which is not its fault."""
        _, before = self._pauses.get(key, (0.0, 0.0))
        pause = min(LONGEST_PAUSE_SECONDS, max(self._settings.poll_seconds, before * 2))
        self._pauses[key] = self._node.clock.monotonic() + pause, pause
        self._look_at_all = True
        self._tried.pop(key, None)
        logger.warning("the work on %s is tried again in %.1f s: %s", key, pause, error)

    async def _blame(self, key: str, error: Exception) -> None:
        """Count a failure that is nobody else's as an attempt of the record."""
        self._pauses[key] = self._node.clock.monotonic() + self._settings.poll_seconds, self._settings.poll_seconds
        entry = self._context.entries.get(key)
        try:
            if entry is not None and entry.work.state in (State.SEEN, State.RUNNING, State.OUTPUT):
                await self._context.failed(entry, State.SEEN, f"{type(error).__name__}; the log has it")
        except Overtaken:
            self._overtaken = True
        except NodekitError as problem:
            self._put_off(key, problem)

    # -- house keeping ----------------------------------------------------------------------------

    async def _keep_house(self, view: View) -> None:
        now = self._node.clock.monotonic()
        for memory in (self._tried, self._pauses):
            gone: list[Any] = [key for key in memory if key not in self._context.entries]
            for key in gone:
                memory.pop(key)
        if now >= self._status_at + STATUS_SECONDS:
            self._status_at = now
            await keep_status(self._storage, await self.status(view))
        if now >= self._forgotten_at + FORGET_SECONDS:
            self._forgotten_at = now
            await self._context.ledger.forget(self._node.now() - self._settings.keep_days * 86_400)

    async def status(self, view: View) -> Status:
        """Return what operators read about the watch."""
        return Status(
            node=self._node.name,
            at=self._node.now(),
            latest=view.latest.number,
            latest_timestamp=view.latest.timestamp,
            trail=view.trail.number,
            newest_id=self._watcher.head_id,
            subscriptions=self._watcher.catalogue.states(view.latest.timestamp),
            aside=dict(list(self._watcher.catalogue.aside.items())[:100]),
            work=by_state([entry.work for entry in self._context.entries.values()]),
            address=self._context.sender.address,
            next_nonce=await self._context.sender.next_nonce(),
            genesis=self._watcher.genesis,
        )
