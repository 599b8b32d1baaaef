"""A proxy in front of a chain that fails as endpoints do: it refuses, hangs, answers garbage, loses transactions."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self, TypeAlias
from urllib.parse import urlsplit

Mode: TypeAlias = Literal[
    "pass", "hang", "busy", "busy in json", "status 500", "garbage", "no json-rpc", "cut", "no batches", "redirect",
    "endless", "other ids", "lose transactions", "one error",
]  # fmt: skip

FAULT = {"code": -32603, "message": "Internal error"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that go away."""


class RpcProxy:
    """An endpoint that a test spoils, while it is entered: set `mode`, or call `close` and `listen`.

    - `requests`: Number of HTTP requests.
    - `methods`: Numbers of calls by method, with those of batches.
    - `lost`: Raw transactions that were answered and not passed on.
    - `overrides`: Results by method, instead of the chain's.
    - `refuses`: Takes a call. If it returns True, the answer is an internal error.
    """

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target).netloc
        self.mode: Mode = "pass"
        self.requests = 0
        self.methods: Counter[str] = Counter()
        self.lost: list[str] = []
        self.overrides: dict[str, Any] = {}
        self.refuses: Callable[[Mapping[str, Any]], bool] = lambda call: False
        self._released = threading.Event()
        self._server: _Server | None = None
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            self.port: int = place.getsockname()[1]

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *error: object) -> None:
        self._released.set()
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        """Accept connections."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                if proxy._server is None:  # a connection from before `close`
                    self.close_connection = True
                    return
                proxy._answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections, and end those that are open with their next request."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    @contextmanager
    def spoiled(self, mode: Mode) -> Iterator[None]:
        before, self.mode = self.mode, mode
        try:
            yield
        finally:
            self.mode = before

    def forget_counts(self) -> None:
        self.requests = 0
        self.methods.clear()

    # -- answers ----------------------------------------------------------------------------------

    def _answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked = json.loads(body)
        calls = asked if isinstance(asked, list) else [asked]
        self.requests += 1
        self.methods.update(call["method"] for call in calls)
        status, data, headers = self._reply(asked, calls, body)
        if self.mode == "endless":
            self._flood(handler)
            return
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data) * (2 if self.mode == "cut" else 1)))
        handler.end_headers()
        handler.wfile.write(data)
        if self.mode == "cut":
            handler.close_connection = True

    def _reply(self, asked: Any, calls: list[Any], body: bytes) -> tuple[int, bytes, Mapping[str, str]]:
        match self.mode:
            case "hang":
                self._released.wait(60)
                return 200, b"", {}
            case "busy":
                return 429, b"slow down", {"Retry-After": "2"}
            case "busy in json":
                error = {"code": -32005, "message": "daily request count exceeded, request rate limited"}
                return 200, json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode(), {}
            case "status 500":
                return 500, b"oops", {}
            case "garbage":
                return 200, b"<html>\xff</html>", {}
            case "no json-rpc":
                return 200, b'[1, {"jsonrpc": "2.0"}]', {}
            case "redirect":
                return 302, b"", {"Location": f"http://{self.target}/"}
            case "one error" if any(map(self.refuses, calls)):
                return 200, json.dumps({"jsonrpc": "2.0", "id": None, "error": FAULT}).encode(), {}
            case "no batches" if isinstance(asked, list):
                error = {"code": -32600, "message": "batches are not supported"}
                return 200, json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode(), {}
        replies = [self._call(call) for call in calls]
        if self.mode == "other ids":
            replies = [reply | {"id": reply["id"] + 1} for reply in replies]
        return 200, json.dumps(replies if isinstance(asked, list) else replies[0]).encode(), {}

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        reply = {"jsonrpc": "2.0", "id": call["id"]}
        if self.refuses(call):
            return reply | {"error": FAULT}
        if call["method"] in self.overrides:
            return reply | {"result": self.overrides[call["method"]]}
        if self.mode == "lose transactions" and call["method"] == "eth_sendRawTransaction":
            self.lost.append(call["params"][0])
            return reply | {"result": "0x" + "00" * 32}
        connection = HTTPConnection(self.target, timeout=60)
        connection.request("POST", "/", json.dumps(call), {"content-type": "application/json"})
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return found

    def _flood(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not self._released.is_set():
            handler.wfile.write(b" " * 65536)
