"""JSON that strains decoders: it is refused with the reason, or passes unchanged. It is never a 500."""

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from components import functions
from http_api import both_servers, serving

from nodekit_remote import RemoteContainer, RemoteRunner

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


DIGITS = "9" * 5000
REFUSED = {
    "deep arrays": "[" * 129 + "]" * 129,
    "very deep arrays": "[" * 100_000 + "]" * 100_000,
    "very deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "arrays without an end": "[" * 900_000,
    "half a surrogate pair": '"\\ud800"',
    "two second halves": '"\\udc00\\udc00"',
    "half a pair as a key": '{"\\ud800":1}',
    "nan": "NaN",
    "infinity": "-Infinity",
    "a control character": '"\x00"',
    "a number with a zero before it": "01",
    "two values": "1 2",
    "nothing": "",
}
PASSED = {
    "many digits": DIGITS,
    "many digits behind a point": f"0.{DIGITS}",
    "a huge exponent": "1e99999",
    "an exponent of many digits": f"1E-{DIGITS}",
    "equal keys": '{"a":1,"a":2}',
    "equal keys that are written differently": '{"a":1,"\\u0061":2}',
    "a pair of surrogates": '"\\ud83d\\ude00"',
    "an escaped NUL": '"\\u0000"',
    "many keys": "{" + ",".join(f'"{n}":{n}' for n in range(20_000)) + "}",
}
BEYOND = ("many digits", "a huge exponent")
"""Numbers that a Python function cannot be given."""
WAITING = {"Prefer": "wait=30"}
BODY = '{"containers":["%s"],"data":{"x":%s}}'


@both_servers
async def test_what_no_decoder_takes_is_refused_on_every_route(server: str) -> None:
    async with serving(server, status_networks=("127.0.0.0/8",)) as api:
        for name, text in REFUSED.items():
            body = BODY % ("echo", text)
            for method, path, sent in (
                ("POST", "/api/jobs", body),
                ("POST", "/api/jobs/stream", body),
                ("POST", "/api/jobs/batch", f"[{body}]"),
                ("POST", "/api/jobs/00000000-0000-7000-8000-000000000000/retry", f'{{"from":"start","x":{text}}}'),
                ("PUT", "/api/status", f'{{"id":"x","status":"failed","containers":["a"],"data":{text}}}'),
            ):
                answer = await api.call(method, path, data=sent)
                assert answer.status in (400, 404), (name, path, answer.status)
                assert answer.status == 400 or "retry" in path
                assert len(answer.error) < 300
        assert (await api.get("/health")).status == 200


@both_servers
async def test_what_only_python_cannot_hold_passes_to_containers_that_can(server: str) -> None:
    async with serving(server) as api:
        for name, text in PASSED.items():
            answer = await api.call("POST", "/api/jobs", data=BODY % ("echo", text), headers=WAITING)
            assert answer.status == 200, (name, answer.body)
            assert (b"beyond what Python can hold" in answer.body) == (name in BEYOND), name


@pytest.mark.parametrize("name", [*REFUSED, *PASSED])
async def test_outputs_of_containers_are_refused_or_passed_on_in_the_same_way(name: str) -> None:
    text = (REFUSED | PASSED)[name].encode()

    async def container(stream: SocketStream) -> None:
        async with stream:
            received = b""
            while b'"requires_proof"' not in received:
                received += await stream.receive()
            await stream.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(text), text)
            )

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, container)
        url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        runner = RemoteRunner(RemoteContainer(id="x", url=url))
        async with serving("uvicorn", runners=[runner, functions()]) as api:
            answer = await api.call("POST", "/api/jobs", data=BODY % ("x", "1"), headers=WAITING)
            assert answer.status == 200
            if name in PASSED:
                assert b'"success"' in answer.body
                assert text in answer.body
            else:
                assert answer.json["status"] == "failed"
                assert answer.json["result"]["error"].startswith("the reply is ")
            both = await api.post("/api/jobs", {"containers": ["x", "echo"], "data": {}}, headers=WAITING)
            assert both.status == 200
            assert b"internal" not in both.body
            assert (b'"success"' in both.body) == (name in PASSED and name not in BEYOND)
        tasks.cancel_scope.cancel()
