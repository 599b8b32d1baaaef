"""A container for the contract of runners: it echoes `data` byte for byte, or FAILs, or is SLOW, ENDLESS or BROKEN."""

import os
import signal
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = b"%x\r\n%b\r\n" % (10_000, b"x" * 10_000)


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def do_GET(self) -> None:
        self.reply(200, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(float(os.environ.get("SLOW", "0")))
        if "FAIL" in os.environ:
            return self.reply(500, b'"failing on purpose"')
        if "ENDLESS" in os.environ or "BROKEN" in os.environ:
            return self.go_on()
        begin, end = body.index(b'"data":') + len(b'"data":'), body.rindex(b',"requires_proof"')
        return self.reply(200, body[begin:end])

    def go_on(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(CHUNK)
            while "BROKEN" not in os.environ:
                self.wfile.write(CHUNK)
        self.close_connection = True

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Log nothing per request."""


class Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128


signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
Server(("0.0.0.0", int(os.environ.get("PORT", "3000"))), Handler).serve_forever()
