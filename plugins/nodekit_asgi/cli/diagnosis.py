"""The lines that say why there is no connection or no reply of a node, each with its cure."""

import os
import socket
import ssl
from http.client import BadStatusLine, RemoteDisconnected

from nodekit_asgi.cli.address import CONNECT_SECONDS, Address
from nodekit_asgi.cli.problems import Dropped, NotANode, Unreachable

CURE = "start one (nodekit serve FILE), or name another with --node or NODEKIT_URL"
WHERE = "is this a node's URL? name another with --node or NODEKIT_URL"

_UNTRUSTED = frozenset({2, 18, 19, 20, 21, 24})
"""Codes of OpenSSL for a certificate whose authority is not known."""
_TLS_RECORD = "\x15\x03"
"""Beginning of what a server of TLS answers to a client that does not speak it."""
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def unreachable(address: Address, error: OSError) -> Unreachable:
    """Return the problem of a connection that could not be made."""
    return Unreachable(_why(address, error))


def _why(address: Address, error: OSError) -> str:
    url = address.shown
    match error:
        case ssl.SSLError():
            return _why_no_tls(address, error)
        case ConnectionRefusedError():
            return f"no node listens at {url}; {CURE}"
        case FileNotFoundError():
            return f"there is no socket at {url}; {CURE}"
        case PermissionError() if address.scheme == "unix":
            return f"this user may not write to the socket at {url}; its owner and mode say who may"
        case TimeoutError():
            return f"{url} did not take the connection within {CONNECT_SECONDS:g} s; {WHERE}{_proxy_hint()}"
        case socket.gaierror():
            return f"the host of {url} is not known ({error.strerror}); {WHERE}{_proxy_hint()}"
        case _:
            return f"no connection to {url}: {error.strerror or error}; {CURE}{_proxy_hint()}"


def _why_no_tls(address: Address, error: ssl.SSLError) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        plain = f"http:{address.url.partition(':')[2]}"
        return f"{address.url} does not speak TLS ({error.reason or error}); is its URL {plain}?"
    said = f"the certificate of {address.url} is not accepted: {error.verify_message.rstrip('.')}"
    if error.verify_code in _UNTRUSTED:
        # OpenSSL says nothing of a file that it could not open.
        if (file := os.environ.get("SSL_CERT_FILE")) and not os.access(file, os.R_OK):
            return f"{said}; SSL_CERT_FILE names {file}, which is not there or may not be read by this user"
        return f"{said}; name a file with the certificate of its authority in the variable SSL_CERT_FILE"
    return f"{said}; name the node by the host in its certificate, or have the certificate renewed"


def _proxy_hint() -> str:
    return "; proxies of the environment are not used" if any(map(os.environ.get, _PROXIES)) else ""


def no_reply(address: Address, error: Exception, limit: float) -> Dropped | NotANode:
    """Return the problem of a request that was sent, or whose sending had begun."""
    url = address.url
    match error:
        case TimeoutError():
            return Dropped(f"the node at {url} took the connection and did not answer within {limit:g} s")
        case RemoteDisconnected() | ConnectionError():
            return Dropped(f"{url} closed the connection without an answer; is the node stopping?")
        case BadStatusLine() if str(error).startswith(_TLS_RECORD):
            return NotANode(f"the server at {url} speaks TLS; is its URL https:{url.partition(':')[2]}?")
        case BadStatusLine():
            return NotANode(f"the server at {url} does not speak HTTP; {WHERE}")
        case _:
            return Dropped(f"the reply of {url} broke off ({type(error).__name__})")
