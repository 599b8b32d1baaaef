"""Python's collector of cycles, set up for a process that runs a node and does nothing else."""

import gc

YOUNG_OBJECTS = 5_000
"""Number of objects, beyond those that were freed meanwhile, after which Python looks for cycles among the new ones.

With its default of 700, the jobs that are under way are looked at again and again. A job leaves no cycle behind, so
nothing is found there.
"""


def collect_seldom() -> None:
    """Free the cycles that there are, and leave out everything that is left from now on.

    Call it once a node has started: modules, classes and the node itself stay until the end. They are more than nine
    tenths of all objects, and a look at all of them stops the node for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
