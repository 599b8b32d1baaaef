"""A script, `launcher PARENT NAMES COMMAND…`, which becomes the command and dies with the node.

The kernel kills it when its parent *thread*, the one that runs the node's event loop, has ended for any reason.
NAMES are the variables that the command gets, because Python may have set others (LC_CTYPE) when it started.
It imports nothing of nodekit, so that it starts in a few milliseconds.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, names, *command = sys.argv[1:]
    if sys.platform == "linux":
        _die_with_parent(int(parent))
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, {name: os.environ[name] for name in names.split("=")})  # noqa: S606
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


def _die_with_parent(parent: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL):
        print(f"prctl: {os.strerror(ctypes.get_errno())}; would outlive a killed node", file=sys.stderr, flush=True)
    if os.getppid() != parent:  # the parent was gone before prctl took effect
        os._exit(127)


if __name__ == "__main__":
    main()
