"""One target under atheris, in a process of its own: ``guided.py TARGET [options of libFuzzer] CORPUS…``.

Only what is named below is instrumented: inputs that reach new code there are kept and changed further.
"""

import sys

import atheris

INSTRUMENTED = ["nodekit", "nodekit_asgi", "nodekit_infernet", "nodekit_remote", "tomllib"]

with atheris.instrument_imports(include=INSTRUMENTED):
    from targets import TARGETS

name = sys.argv.pop(1)
atheris.Setup(sys.argv, TARGETS[name]())
atheris.Fuzz()
