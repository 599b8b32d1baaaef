"""Names of sites: origins of pages, and hosts, in the one form in which they are compared."""

import re
from functools import cache
from ipaddress import ip_address
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_HOST = re.compile(r"[a-z0-9_.:-]+")


def origin_name(text: str) -> str:
    """Return an origin, ``https://app.example``, in lower case and without its default port.

    Raise `ValueError` for a text that is no origin, with the cure.
    """
    parts = urlsplit(text)
    if not parts.scheme or not parts.hostname or not _HOST.fullmatch(parts.hostname):
        raise ValueError("an origin is written scheme://host or scheme://host:port, without wildcards")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = _DEFAULT_PORTS.get(parts.scheme)
    port = "" if parts.port in (None, default) else f":{parts.port}"
    name = f"{parts.scheme}://{host}{port}"
    if text.lower() not in (name, f"{name}:{default}"):
        raise ValueError(f"write {name}")
    return name


def host_name(text: str) -> str:
    """Return the name of a host in lower case: without a port, the brackets of IPv6, and a dot at the end.

    Raise `ValueError` for a text that is no host.
    """
    name = (urlsplit(f"//{text}").hostname or "").removesuffix(".")
    if not _NAME.fullmatch(name):
        ip_address(name)
    return name


def check_origins(key: str, texts: tuple[str, ...]) -> None:
    """Raise `ValueError` that names each text that matches no page."""
    problems: list[str] = []
    for text in texts:
        try:
            origin_name(text)
        except ValueError as error:
            problems.append(f"{text!r} matches no page: {error}")
    if problems:
        raise ValueError(f"{key}: {'; '.join(problems)}")


def check_hosts(key: str, texts: tuple[str, ...]) -> None:
    """Raise `ValueError` that names each text that is no name of a host."""
    if wrong := [text for text in texts if not _is_host(text)]:
        match = "matches" if len(wrong) == 1 else "match"
        named = ", ".join(map(repr, wrong))
        raise ValueError(f"{key}: {named} {match} no Host: name a host, without scheme, port, path or wildcard")


def _is_host(text: str) -> bool:
    try:
        return host_name(text) in (text.lower(), text.lower().removesuffix("."), text.lower().strip("[]"))
    except ValueError:
        return False


@cache
def origin_names(texts: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(origin_name, texts))


@cache
def host_names(texts: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(host_name, texts))
