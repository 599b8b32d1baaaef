"""A container that counts words.

It listens on HOST and PORT, and answers `POST /service_output` with JSON, and `GET /health`.
"""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EXPECTED = '{"words": ["…"]}'


def count(data: Any) -> Any:
    """Convert `{"words": […]}` to `{"total": …, "counts": {word: number}}`, in the order of the text."""
    counts: dict[str, int] = {}
    if not isinstance(data["words"], list) or not all(isinstance(word, str) for word in data["words"]):
        raise TypeError("`words` is no list of texts")
    for word in data["words"]:
        counts[word] = counts.get(word, 0) + 1
    return {"total": sum(counts.values()), "counts": counts}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply(200, {"status": "healthy"})
        else:
            self.reply(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/service_output":
            return self.reply(404, {"error": "not found"})
        try:
            output = count(json.loads(body)["data"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return self.reply(400, {"error": f"expected {EXPECTED}: {type(error).__name__}: {error}"})
        return self.reply(200, output)

    def reply(self, status: int, value: Any) -> None:
        body = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing for each request, because the node knows it all."""


def stop(number: int, frame: object) -> None:
    sys.exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    address = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "3000"))
    with ThreadingHTTPServer(address, Handler) as server:
        server.daemon_threads = True
        server.serve_forever()
