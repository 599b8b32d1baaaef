"""Run a command, and end when it and everything that it has started have ended: `witness.py SECONDS COMMAND…`.

The witness is a subreaper: whatever outlives its parents, and the command itself, becomes its child. So it sees also
processes that live too shortly to be found in a list. Its exit code is the command's, or 99 if something was left after
so many seconds. It prints the pid of the command, and the seconds from its end to the end of all.
"""

import ctypes
import os
import subprocess
import sys
import time

from nodekit_process.supervisor.descendants import kill_all, reap

PR_SET_CHILD_SUBREAPER = 36
LEFT = 99


def main() -> int:
    seconds, command = float(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    pid = subprocess.Popen(command).pid
    print(f"runs {pid}", flush=True)
    ended_at, code, is_left = 0.0, 0, True
    while is_left and (not ended_at or time.monotonic() < ended_at + seconds):
        ended, is_left = reap()
        if pid in ended:
            ended_at, code = time.monotonic(), os.waitstatus_to_exitcode(ended[pid])
        time.sleep(0.002)
    print(f"all ended after {time.monotonic() - ended_at:.3f}", flush=True)
    if is_left:
        kill_all()
        return LEFT
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(main())
