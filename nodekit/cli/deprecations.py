"""Warnings about plugins, for commands to show as they show other things."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from nodekit._deprecated import PluginDeprecationWarning


@contextmanager
def caught() -> Iterator[list[str]]:
    """Gives the texts of warnings about plugins, once the block is left; each once. Others are shown as ever."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always", PluginDeprecationWarning)
        yield texts
    for one in recorded:
        if issubclass(one.category, PluginDeprecationWarning):
            texts.append(str(one.message))
        else:
            warnings.showwarning(one.message, one.category, one.filename, one.lineno, one.file, one.line)
    texts[:] = dict.fromkeys(texts)
