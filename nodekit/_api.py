"""The version of the plugin API, and what a package that was written for another one is told."""

import re

API_VERSION = "1.0"
"""Major and minor. What it covers, and what raises which, says ``docs/explanation/compatibility.md``."""

DISTRIBUTION = "nodekit-compute"


def version(text: str) -> tuple[int, int]:
    """Major and minor as numbers. Raises `ValueError` where it is no such version."""
    found = re.fullmatch(r"(\d+)\.(\d+)", text)
    if found is None:
        raise ValueError(f"{text!r} is not a version such as {API_VERSION!r}")
    return int(found[1]), int(found[2])


def reached(text: str) -> bool:
    """Whether the plugin API is of this version, or of a later one."""
    return version(text) <= version(API_VERSION)


def api_problem(written_for: object, package: str) -> str | None:
    """Why what was written for that version cannot be used here, and what to update; None: it can.

    `package` is the distribution that it is of, as pip knows it.
    """
    try:
        major, minor = version(written_for) if isinstance(written_for, str) else (None, None)
    except ValueError:
        major = minor = None
    if major is None or minor is None:
        return f'says api={written_for!r}, which is no version of the plugin API; write api="{API_VERSION}"'
    our_major, our_minor = version(API_VERSION)
    if major == our_major and minor <= our_minor:
        return None
    text = f"was written for plugin API {written_for}, and this {DISTRIBUTION} has {API_VERSION}; "
    if major < our_major:
        return text + f"update {package}, or install a {DISTRIBUTION} with plugin API {major}"
    return text + f"update {DISTRIBUTION}, or install an older {package}"
