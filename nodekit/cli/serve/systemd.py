"""The node's reports to systemd, by the protocol of sd_notify(3): datagrams of lines.

It is short enough to be written here: `sdnotify` would only send, and wait while systemd is busy; `systemd-python`
needs a C compiler and libsystemd.
"""

import logging
import os
import re
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

import anyio

from nodekit.concurrency.signal import Signal
from nodekit.errors import StoreFailed
from nodekit.node.node import Node

logger = logging.getLogger("nodekit")

EXTENSION_SECONDS = 30.0
"""Time by which a long start or stop is extended, again and again."""
BEAT_SECONDS = 5.0
"""Longest pause between two reports. It is short of EXTENSION_SECONDS, also on a busy machine."""
LONGEST_START_SECONDS = 3600.0
"""Time after which a start is no longer extended: no pull of an image takes that long, so the start hangs."""
STOP_SECONDS = 60.0
"""Time after `drain_seconds` for which a stop is extended: transports and containers end in it."""
SHORTEST_BEAT_SECONDS = 0.01
DRAIN_STATUS_SECONDS = 1.0
COUNT_SECONDS = 1.0
"""Time for which the store may count its jobs for a status."""
MOST_UNSENT = 16
"""Number of reports that are kept while systemd takes none; the last ones."""


class Systemd:
    """The service manager that waits for reports of the node. Without an `address`, nothing is sent.

    No report waits or fails: a manager that is gone, or too busy, never harms the node.
    """

    def __init__(self, address: str | None = None, watchdog_seconds: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address and address[0] == "@" else address
        self._watched = watchdog_seconds is not None
        longest = BEAT_SECONDS if watchdog_seconds is None else min(watchdog_seconds / 2, BEAT_SECONDS)
        self._beat_seconds = max(SHORTEST_BEAT_SECONDS, longest)
        self._socket: socket.socket | None = None
        self._unsent: list[str] = []
        """Reports that must arrive, in their order."""
        self._state = "starting"
        self._changed = Signal()
        self._extended_until = time.monotonic() + LONGEST_START_SECONDS

    @classmethod
    def of_the_environment(cls, environment: MutableMapping[str, str] = os.environ) -> "Systemd":
        """Take the manager out of the environment, so that no container reports to it in the name of the node."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        if address[:1] not in ("/", "@"):  # there are other families, for virtual machines
            return cls()
        watched = pid in ("", str(os.getpid())) and re.fullmatch(r"[0-9]{1,18}", microseconds) and int(microseconds)
        return cls(address, int(microseconds) / 1e6 if watched else None)

    def ready(self) -> None:
        """Report that all transports listen."""
        self._become("ready", "READY=1")

    def reloaded(self) -> None:
        """Report a reload that is over already. It is not reported unless the node is ready."""
        if self._state == "ready":
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
            self._send("READY=1")

    def stopping(self, drain_seconds: float) -> None:
        """Report that the node stops. Jobs have up to `drain_seconds`, and the rest a bit more."""
        self._extended_until = time.monotonic() + drain_seconds + STOP_SECONDS
        self._become("stopping", "STOPPING=1")

    def _become(self, state: str, report: str) -> None:
        self._state = state
        self._send(report)
        self._changed.set()

    async def report(self, node: Node) -> None:
        """Report until cancelled. The watchdog's reports come from the event loop: a loop that is stuck sends none."""
        if self._address is None:
            return
        try:
            sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError as error:  # no descriptor is left
            logger.warning("nothing is reported to systemd: %s", error)
            return
        with sender as self._socket:
            self._socket.setblocking(False)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._report_status, node)
                while True:
                    self._beat()
                    await anyio.sleep(self._beat_seconds)

    def _beat(self) -> None:
        lines = ["WATCHDOG=1"] if self._watched else []
        if self._state != "ready" and time.monotonic() < self._extended_until:
            lines.append(f"EXTEND_TIMEOUT_USEC={int(EXTENSION_SECONDS * 1e6)}")
        self._send("\n".join(lines), again=False)

    async def _report_status(self, node: Node) -> None:
        reported = ""
        while True:
            status = await self._status(node)
            if status != reported and self._send(f"STATUS={status}", again=False):
                reported = status
            with anyio.move_on_after(DRAIN_STATUS_SECONDS if self._state == "stopping" else BEAT_SECONDS):
                await self._changed.wait()

    async def _status(self, node: Node) -> str:
        if self._state == "starting":
            return "starting"
        if self._state == "stopping":
            return f"draining: {node.in_flight} left" if node.in_flight else "stopping"
        queued = "the store does not say how many are queued"
        with suppress(StoreFailed), anyio.move_on_after(COUNT_SECONDS):
            queued = f"{max(0, (await node.pending()).total - node.in_flight)} queued"
        return f"{node.in_flight} running, {queued}"

    def _send(self, report: str, *, again: bool = True) -> bool:
        """Send a report behind those that could not be sent before; keep it for later if it must arrive.

        Return True if it was sent.
        """
        if self._address is None:
            return False
        try:
            if self._socket is None:
                raise OSError("the reports have not begun")
            for text in [*self._unsent, *([report] if report else [])]:
                self._socket.sendto(text.encode(), self._address)
                self._unsent = self._unsent[1:]
        except OSError as error:  # its queue is full, or it is gone
            logger.debug("systemd does not take a report: %s", error)
            self._unsent = [*self._unsent, report][-MOST_UNSENT:] if again else self._unsent
            return False
        return True
