"""The check of `nodekit doctor` for the place of the keys of a node file."""

from collections.abc import Iterator

from nodekit import ExaminedFile, Finding


def findings(file: ExaminedFile | None = None) -> Iterator[Finding]:
    """Report keys in a store that no command can open."""
    for one in file.of("plugin", "apikeys") if file else ():
        if one.config.keys == "store" and file is not None and file.of("store", "memory"):
            text = (
                "the store memory is known to the process of its node alone, so `nodekit keys` cannot make keys there"
            )
            yield Finding(
                "warning", f"{one.where}.keys", text, "use another store, such as sqlite, or a file: path = …"
            )
