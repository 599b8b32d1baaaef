"""`nodekit chain`: a node that does not answer, or serves no chain, is told with the cure, and no traceback."""

import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from nodekit_chain.cli import chain


@pytest.fixture
def answering() -> Iterator[dict[str, Any]]:
    """A server that answers what a test says; its `url`."""
    answer: dict[str, Any] = {"status": 200, "body": b"{}", "keys": []}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer["keys"].append(self.headers["authorization"])
            self.send_response(answer["status"])
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield answer | {"url": f"http://127.0.0.1:{server.server_address[1]}", "set": answer.update}
    server.shutdown()
    server.server_close()
    thread.join()


def run(*arguments: str, **env: str) -> tuple[int, str]:
    done = CliRunner().invoke(chain, arguments, env={"NODEKIT_API_KEY": "", **env})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_commands_import_nothing_that_only_the_plugin_needs() -> None:
    heavy = {"aiohttp", "coincurve", "Crypto", "eth_abi"}
    code = f"import sys, nodekit_chain.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_node_that_does_not_answer_is_named_with_the_cure() -> None:
    code, text = run("status", "--node", "http://127.0.0.1:1")
    assert (code, "http://127.0.0.1:1 does not answer" in text, "NODEKIT_URL" in text) == (1, True, True)
    assert run("status", "--node", "127.0.0.1:1")[0] == 2


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, b'{"error": "no such path"}', "has no plugin chain"),
        (403, b'{"error": "only here"}', "only here; give the key of an operator"),
        (503, b'{"error": "the chain does not answer"}', "the chain does not answer"),
        (400, b'{"error": "id: expected\\u001b"}', "id: expected\\x1b"),
        (500, b"<html>", "it answers with status 500"),
        (200, b"<html>", "something else than JSON"),
    ],
)
def test_what_a_node_objects_is_told(answering: dict[str, Any], status: int, body: bytes, expected: str) -> None:
    answering["set"](status=status, body=body)
    code, text = run("show", "7", "--node", answering["url"], NODEKIT_API_KEY="a-key")
    assert (code, expected in text) == (1, True), text
    assert answering["keys"] == ["Bearer a-key"]


def test_a_subscription_that_is_not_there_is_an_error(answering: dict[str, Any]) -> None:
    answering["set"](body=b'{"subscription": null, "records": []}')
    assert run("show", "7", "--node", answering["url"]) == (
        1,
        "Error: there is no subscription 7, and no work for it\n",
    )
