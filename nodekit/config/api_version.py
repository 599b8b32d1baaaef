"""The version of the plugin API, and the check of packages that were written for another one."""

import re

API_VERSION = "0.1"
"""Major and minor version. ``docs/explanation/compatibility.md`` says what it covers."""

DISTRIBUTION = "nodekit-compute"


def version(text: str) -> tuple[int, int]:
    """Return major and minor as numbers. Raise `ValueError` if the text is no such version."""
    found = re.fullmatch(r"(\d+)\.(\d+)", text)
    if found is None:
        raise ValueError(f"{text!r} is not a version such as {API_VERSION!r}")
    return int(found[1]), int(found[2])


def api_problem(written_for: object, package: str) -> str | None:
    """Return the reason why a package cannot be used here, and what to update. Return None if it can.

    `written_for` is the version that the package declares; `package` is its distribution, as pip knows it.
    """
    try:
        major, minor = version(written_for) if isinstance(written_for, str) else (None, None)
    except ValueError:
        major = minor = None
    if major is None or minor is None:
        return f'has api={written_for!r}, which is not a version of the plugin API; write api="{API_VERSION}"'
    our_major, our_minor = version(API_VERSION)
    if major == our_major and minor <= our_minor:
        return None
    text = f"was written for plugin API {written_for}, and this {DISTRIBUTION} has {API_VERSION}; "
    if major < our_major:
        return text + f"update {package}, or install a {DISTRIBUTION} with plugin API {major}"
    return text + f"update {DISTRIBUTION}, or install an older {package}"
