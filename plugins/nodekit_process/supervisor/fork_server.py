"""The fork server: it forks a supervisor for each container, and ends everything when the node is gone."""

import gc
import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Never

from .descendants import kill_all, reap
from .supervisor import supervise
from .system import Watch, become_subreaper, close_all_but, hide_memory

GRACE_SECONDS = 2.0
"""Time that a supervisor has to end its container after the node has closed its side of their connection."""
_CLOSED: int = getattr(select, "POLLRDHUP", 0)
"""The event that one side was closed. Where there is none, the end of both sides is reported."""


@dataclass
class Supervised:
    """A supervisor, and the descriptor of its connection to the node: that ends when nothing of it is left."""

    control: int
    kill_at: float | None = None


def main(channel: int, node: int) -> Never:
    """Serve orders of the node with this pid until it is gone or closes the channel."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    close_all_but({channel})
    become_subreaper()
    hide_memory()
    gc.disable()
    gc.freeze()  # forks share the memory of all that is there now
    ForkServer(socket.socket(fileno=channel), node).run()
    kill_all()
    os._exit(0)


class ForkServer:
    """The supervisors that were forked and have not ended."""

    def __init__(self, channel: socket.socket, node: int) -> None:
        self._channel = channel
        self._supervisors: dict[int, Supervised] = {}
        self._watch = Watch(node)
        self._watch.add(channel.fileno())

    def run(self) -> None:
        """Return when the node is gone."""
        while not self._watch.parent_ended:
            for descriptor in self._watch.wait(self._seconds()):
                if descriptor != self._channel.fileno():
                    self._is_left(descriptor)
                elif not self._take_order():
                    return
            self._reap()
            self._kill_late_ones()

    def _take_order(self) -> bool:
        """Fork a supervisor. Return False if the node has closed the channel."""
        try:
            word, descriptors, _, _ = socket.recv_fds(self._channel, 1, 4)
        except OSError:
            return False
        if not word or len(descriptors) < 3:
            return False
        order, control, output, *listener = descriptors
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        me = os.getpid()
        if not (pid := os.fork()):
            try:
                supervise(me, order, control, output, listener[0] if listener else None)
            finally:
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        self._supervisors[pid] = Supervised(control)
        self._watch.add(control, events=_CLOSED)
        for descriptor in (order, output, *listener):
            os.close(descriptor)
        return True

    def _is_left(self, control: int) -> None:
        """Note that the node has closed its connection to a supervisor, which has to end now."""
        self._watch.remove(control)
        for supervised in self._supervisors.values():
            if supervised.control == control:
                supervised.kill_at = time.monotonic() + GRACE_SECONDS

    def _seconds(self) -> float | None:
        """Return the time until a supervisor is late; None: there is none that has to end."""
        ends = [one.kill_at for one in self._supervisors.values() if one.kill_at is not None]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _kill_late_ones(self) -> None:
        for pid, supervised in self._supervisors.items():
            if supervised.kill_at is not None and supervised.kill_at <= time.monotonic():
                os.kill(pid, signal.SIGKILL)  # what it leaves comes to this process

    def _reap(self) -> None:
        """Reap children. Unless only supervisors ended in good order, kill what is left of theirs."""
        ended, _ = reap()
        if any(pid not in self._supervisors or status for pid, status in ended.items()):
            ended |= kill_all(without=self._supervisors.keys() - ended.keys(), seconds=GRACE_SECONDS)
        for pid in ended.keys() & self._supervisors.keys():
            control = self._supervisors.pop(pid).control
            self._forget(control)

    def _forget(self, control: int) -> None:
        """Close a supervisor's connection, so that the node hears of its end."""
        with suppress(KeyError):  # it was removed if the node closed its side before
            self._watch.remove(control)
        os.close(control)
