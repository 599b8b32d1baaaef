"""The checks of `nodekit doctor` for the addresses of a node file. Nothing listens, and nothing is made."""

import http.client
import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, suppress
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL
from pathlib import Path

from nodekit import Configured, ExaminedFile, Finding, NodekitError, descriptor_share, folder_problem
from nodekit_asgi.server.listen import host_and_port

ANSWER_SECONDS = 2.0
MAX_ANSWER_BYTES = 4096
LONGEST_UNIX_PATH = 107
"""Bytes that an address of a unix socket has room for on Linux."""
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - addresses to ask at, not to listen at


def findings(file: ExaminedFile | None = None) -> Iterator[Finding]:
    """Report for each transport of the node file if it can listen, and if there are enough open files for it."""
    for one in file.of("transport", "asgi") if file else ():
        where, bind = f"{one.where}.bind", str(one.config.bind)
        if bind.startswith("unix:"):
            assert file is not None
            yield from _unix(where, file.file.folder / bind.removeprefix("unix:"))
        else:
            yield from _tcp(where, bind)
        yield from _connections(one)


def _tcp(where: str, bind: str) -> Iterator[Finding]:
    try:
        host, port = host_and_port(bind)
    except NodekitError:  # the file does not compose, and says so
        return
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        with socket.socket(family, kind) as probe:  # it is bound for a moment, and never listens
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        yield Finding(
            "error", where, f"{host} has no address: {error.strerror}", "correct the name, or give an address"
        )
    except OSError as error:
        yield _refused(where, bind, host, port, error)
    else:
        yield Finding("ok", where, "a free port is chosen" if port == 0 else f"{bind} is free")


def _refused(where: str, bind: str, host: str, port: int, error: OSError) -> Finding:
    if error.errno == EADDRINUSE:
        if _is_node(http.client.HTTPConnection(_WILDCARDS.get(host, host), port, timeout=ANSWER_SECONDS)):
            return Finding("note", where, f"a node answers at {bind}", "if it is not this one, choose another address")
        return Finding(
            "error", where, f"another program has {bind}", "stop it (`ss -ltnp` names it), or choose another"
        )
    if error.errno == EADDRNOTAVAIL:
        return Finding("error", where, f"{host} is no address of this machine", "0.0.0.0 is all of its addresses")
    if error.errno == EACCES:
        text = f"this user may not listen at port {port}"
        return Finding("error", where, text, "choose one above 1023, or give the node CAP_NET_BIND_SERVICE")
    return Finding("error", where, f"{bind} cannot be used: {error.strerror or error}", "choose another address")


def _unix(where: str, path: Path) -> Iterator[Finding]:
    if len(os.fsencode(path)) > LONGEST_UNIX_PATH:
        text = f"{path} has more than {LONGEST_UNIX_PATH} bytes, the most for a unix socket"
        yield Finding("error", where, text, "choose a shorter path")
    elif problem := folder_problem(path.parent, write=True):
        yield Finding.from_text("error", where, problem)
    elif not os.path.lexists(path):
        yield Finding("ok", where, f"{path} is free")
    elif not os.path.exists(path) or not stat.S_ISSOCK(path.stat().st_mode):
        yield Finding("error", where, f"{path} is there already and is no socket", "remove it, or choose another path")
    elif _is_served(path):
        yield _taken(where, path)
    else:
        yield Finding("ok", where, f"{path} is left of a process that has ended, and will be replaced")


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ANSWER_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:  # this user may not connect, or its queue is full
            return True
        return True


def _taken(where: str, path: Path) -> Finding:
    connection = http.client.HTTPConnection("localhost", timeout=ANSWER_SECONDS)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(ANSWER_SECONDS)
    with suppress(OSError):
        connection.sock.connect(str(path))
    if _is_node(connection):
        return Finding("note", where, f"a node answers at {path}", "if it is not this one, choose another path")
    return Finding("error", where, f"another program listens at {path}", "stop it, or choose another path")


def _is_node(connection: http.client.HTTPConnection) -> bool:
    """Return True if what answers is a node: its health is a JSON object with a status."""
    with closing(connection), suppress(OSError, http.client.HTTPException, ValueError):
        connection.request("GET", "/health")
        answer = json.loads(connection.getresponse().read(MAX_ANSWER_BYTES))
        return isinstance(answer, dict) and "status" in answer
    return False


def _connections(one: Configured) -> Iterator[Finding]:
    share, wanted = descriptor_share(), one.config.max_connections
    if wanted is not None and share is not None and wanted > share:
        text = f"{wanted} connections, and the open files are enough for about {share} beside calls of containers"
        yield Finding("warning", f"{one.where}.max_connections", text, "raise the limit (ulimit -n, LimitNOFILE=)")
