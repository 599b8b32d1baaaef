"""Colours of what commands print, as the environment wants them."""

import os


def colours() -> bool | None:
    """Return False for no colours, True for colours everywhere, and None for colours at terminals only.

    ``NO_COLOR`` comes before ``FORCE_COLOR`` and ``CLICOLOR_FORCE``. Empty variables count as unset.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if any(os.environ.get(name, "0") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return False if os.environ.get("TERM") == "dumb" else None
