"""The fork server as a program: `__main__.py CHANNEL NODE`, a descriptor and the pid of the node."""

import os
import sys
from importlib import import_module

if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    import_module("supervisor.fork_server").main(int(sys.argv[1]), int(sys.argv[2]))
