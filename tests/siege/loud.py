"""A container that prints as fast as it can: short lines, lines of usual length and escapes, and a line without end."""

import http.server
import os
import threading

PIECE = b"".join((b"y\n" * 8192, (b"\x1b[31m" + b"x" * 74 + b"\n") * 400, b"\xff" * 65536))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
while True:
    os.write(1, PIECE)
