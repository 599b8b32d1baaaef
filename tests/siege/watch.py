"""A watcher in a process of its own: the memory of a node, and how long its health probe takes.

It prints a line of JSON for each line that it reads: the figures since the last one.
"""

import http.client
import json
import re
import sys
import threading
import time
from pathlib import Path

PROBE_SECONDS = 0.05
TIMEOUT_SECONDS = 30.0


class Watcher:
    def __init__(self, pid: int, port: int) -> None:
        self._status, self._port = Path(f"/proc/{pid}/status"), port
        self._waits: list[float] = []
        self._failures: list[str] = []
        self._most = 0

    def run(self) -> None:
        threading.Thread(target=self._probe, daemon=True).start()
        threading.Thread(target=self._measure, daemon=True).start()
        for _ in sys.stdin:
            waits, self._waits = sorted(self._waits), []
            failures, self._failures = self._failures, []
            most, self._most = self._most, 0
            print(
                json.dumps(
                    {
                        "probes": len(waits),
                        "p99_seconds": waits[len(waits) * 99 // 100] if waits else 0.0,
                        "longest_seconds": waits[-1] if waits else 0.0,
                        "failures": failures,
                        "peak_bytes": most,
                        "bytes": self._resident(),
                    }
                ),
                flush=True,
            )

    def _probe(self) -> None:
        """Ask again and again, each time on a new connection, as a load balancer does."""
        while True:
            began = time.monotonic()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
                connection.request("GET", "/health")
                reply = connection.getresponse()
                reply.read()
                connection.close()
                if reply.status not in (200, 503):
                    self._failures.append(f"status {reply.status}")
            except OSError as error:
                self._failures.append(repr(error))
            self._waits.append(time.monotonic() - began)
            time.sleep(PROBE_SECONDS)

    def _measure(self) -> None:
        while True:
            self._most = max(self._most, self._resident())
            time.sleep(0.01)

    def _resident(self) -> int:
        try:
            found = re.search(r"VmRSS:\s+(\d+) kB", self._status.read_text())
        except OSError:
            return 0
        return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    Watcher(*map(int, sys.argv[1:])).run()
