"""Methods, targets, codings and queries of requests, as other programs send them."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from http_api import Api, asgi_call, both_servers, serving

from nodekit_asgi import AsgiApp, AsgiConfig
from nodekit_asgi.api.routes import QUERIES, ROUTES
from nodekit_asgi.http.codings import gunzipped
from nodekit_asgi.openapi import document

pytestmark = pytest.mark.anyio

JOB = json.dumps({"containers": ["echo"], "data": {"text": "x" * 1000}}).encode()
LENGTHS_VARY = {"/api/jobs/{id}/events", "/docs/{file}"}


@both_servers
async def test_head_answers_like_get_without_a_body(api: Api) -> None:
    id = await api.submit("fail")
    await api.results(id)
    for path, methods in ROUTES.items():
        if "GET" not in methods or path in LENGTHS_VARY:
            continue
        at = path.replace("{id}", id)
        whole, head = await api.get(at), await api.call("HEAD", at)
        assert (head.status, head.body) == (whole.status, b""), path
        for name in ("Content-Type", "Content-Length", "Cache-Control", "ETag"):
            assert head.headers.get(name) == whole.headers.get(name), (path, name)
    for path in (f"/api/jobs?id={id}", f"/api/jobs?id={id}&intermediate=true", "/api/jobs?limit=1", "/api/jobs?wait=1"):
        assert (await api.call("HEAD", path)).status == (await api.get(path)).status, path
    assert (await api.call("HEAD", "/nope")).status == 404
    assert (await api.call("HEAD", f"/api/jobs/{id}x")).status == 404


async def test_the_application_itself_sends_no_body_for_head(api: Api) -> None:
    """A server that mounts it need not leave the body out."""
    for path in ("/info", "/api/jobs", "/nope"):
        assert (await asgi_call(AsgiApp(api.node), path, method="HEAD"))[1] == b"", path


@both_servers
async def test_head_of_events_ends_at_once_and_the_connection_goes_on(api: Api) -> None:
    id = await api.submit("gate")
    async with api.raw() as connection:
        for path in (f"/api/jobs/{id}/events", "/api/jobs", "/info"):
            await connection.send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = (await connection.reader.readuntil(b"\r\n\r\n")).decode()
            assert head.startswith("HTTP/1.1 200"), path
        await connection.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await connection.answer()).json == {"status": "healthy"}


@both_servers
async def test_options_names_the_methods(api: Api) -> None:
    for path, methods in ROUTES.items():
        answer = await api.call("OPTIONS", path.replace("{id}", "x").replace("{file}", "x"))
        expected = {*methods, "OPTIONS", *(["HEAD"] if "GET" in methods else [])}
        assert (answer.status, answer.body) == (204, b""), path
        assert {*answer.headers["Allow"].split(", ")} == expected, path
    assert (await api.call("OPTIONS", "/nope")).status == 404
    async with api.raw() as connection:
        await connection.send(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = (await connection.reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert head.startswith("http/1.1 204")
    assert all(method in head for method in ("get", "head", "post", "put", "delete", "options"))


@both_servers
async def test_pages_that_may_not_call_get_no_options(api: Api) -> None:
    answer = await api.call("OPTIONS", "/api/jobs", headers={"Origin": "https://evil.example"})
    assert (answer.status, answer.headers.get("Allow")) == (403, None)


# -- targets ------------------------------------------------------------------------------------------

TARGETS = {
    "http://localhost/info": 200,
    "HTTP://127.0.0.1:4000/info": 200,
    "https://localhost/api/jobs?limit=1": 200,
    "http://user@localhost/info": 200,
    "http://localhost": 404,
    "http://localhost?x=/info": 404,
    "http://evil.example/info": 403,
    "http://localhost@evil.example/info": 403,
    "/http://localhost/info": 404,
}


@both_servers
@pytest.mark.parametrize(("target", "status"), TARGETS.items())
async def test_a_target_in_absolute_form_is_its_path_and_its_host_counts(api: Api, target: str, status: int) -> None:
    host = "localhost" if status == 403 else "evil.example" if target.lower().startswith("http") else "localhost"
    async with api.raw() as connection:
        await connection.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert (await connection.answer()).status == status


# -- codings ------------------------------------------------------------------------------------------

GZIP = {"Content-Encoding": "gzip", "Content-Type": "application/json"}


@both_servers
async def test_a_body_in_gzip_is_that_body(api: Api) -> None:
    halves = gzip.compress(JOB[:100]) + gzip.compress(JOB[100:])
    for body, coding in ((gzip.compress(JOB), "gzip"), (halves, "X-GZip"), (JOB, "identity"), (JOB, "identity, ")):
        answer = await api.post("/api/jobs", body, headers={"Content-Encoding": coding})
        assert answer.status == 200, coding
        [job] = await api.results(answer.json["id"])
        assert job["result"]["output"] == {"text": "x" * 1000}


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, br", "x"])
@both_servers
async def test_another_coding_is_415_and_names_the_right_one(api: Api, coding: str) -> None:
    answer = await api.post("/api/jobs", JOB, headers={"Content-Encoding": coding})
    assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "gzip")
    assert answer.error.startswith("Content-Encoding:")


@both_servers
async def test_a_body_that_is_no_gzip_or_ends_early_is_400(api: Api) -> None:
    whole = gzip.compress(JOB)
    flipped = bytes([*whole[:20], whole[20] ^ 255, *whole[21:]])
    for body in (JOB, whole[:-1], whole[:15], flipped, whole + b"x", b"\x1f\x8b"):
        answer = await api.post("/api/jobs", body, headers=GZIP)
        assert answer.status == 400, body[:10]
        assert "gzip" in answer.error
    assert (await api.post("/api/jobs", b"", headers=GZIP)).error == (await api.post("/api/jobs", b"")).error


@both_servers
async def test_a_bomb_is_413(server: str) -> None:
    async with serving(server, max_body_bytes=1 << 16) as api:
        bomb = gzip.compress(bytes(50 << 20))
        assert len(bomb) < 1 << 16
        answer = await api.post("/api/jobs", bomb, headers=GZIP)
        assert answer.status == 413


async def test_a_bomb_is_blown_up_only_as_far_as_somebody_asks() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield gzip.compress(bytes(50 << 20))
        raise AssertionError("nobody has asked for this much")

    blown_up = gunzipped(pieces())
    assert [len(await anext(blown_up)) for _ in range(3)] == [1 << 16] * 3


# -- queries ------------------------------------------------------------------------------------------


@both_servers
async def test_an_unknown_query_parameter_is_400_and_named_with_the_nearest_known_one(server: str) -> None:
    async with serving(server) as api:
        for method, path, texts in (
            ("GET", "/api/jobs?intermediat=true", ("intermediat:", "did you mean intermediate?")),
            ("HEAD", "/api/jobs?pendin=true", ()),
            ("GET", "/resources?model=x", ("model:", "did you mean model_id?")),
            ("GET", "/info?a=1", ("a:", "known here: none")),
            ("GET", f"/info?{'a' * 5000}=1", ("a" * 100 + ":",)),
            ("GET", "/docs?a", ("a:",)),
            ("POST", "/api/jobs?wait=1", ("wait:",)),
            ("DELETE", "/api/jobs/x?id=1", ("id:",)),
        ):
            answer = await api.call(method, path)
            assert answer.status == 400, path
            assert not texts or all(text in answer.error for text in texts), (path, answer.error)
        assert (await api.get("/health?a=1")).status == 200
        assert (await api.get("/nope?a=1")).status == 404
    async with serving(server, profile="infernet-1.4") as api:
        assert (await api.get("/info?a=1")).status == 200


def test_the_known_query_parameters_are_those_of_the_description() -> None:
    paths: Any = msgspec.json.decode(document(AsgiConfig(), frozenset((p, m) for p, ms in ROUTES.items() for m in ms)))
    for path, methods in paths["paths"].items():
        for method, operation in methods.items():
            named = {each["name"] for each in operation.get("parameters", []) if each["in"] == "query"}
            assert named == {*(QUERIES.get(path, ()) if method == "get" else ())}, (method, path)


# -- names of sites -----------------------------------------------------------------------------------


@both_servers
async def test_capitals_and_default_ports_of_sites_do_not_matter(server: str) -> None:
    allowed = {
        "allowed_hosts": ("Node.Example", "other.example.", "[::5]"),
        "allowed_origins": ("https://App.Example:443", "http://localhost:3000", "HTTP://plain.example"),
    }
    async with serving(server, **allowed) as api:
        for host in ("node.example", "NODE.example:8080", "node.example.", "other.example", "[::5]:1"):
            assert (await api.get("/info", headers={"Host": host})).status == 200, host
        for host in ("node.example.evil", "evil.example", "[::6]"):
            assert (await api.get("/info", headers={"Host": host})).status == 403, host
        for origin in (
            "https://app.example",
            "HTTPS://APP.EXAMPLE",
            "https://app.example:443",
            "http://plain.example:80",
        ):
            answer = await api.get("/info", headers={"Origin": origin})
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, origin)
        for origin in ("http://app.example", "https://app.example:444", "https://app.example/", "null", "https://"):
            assert (await api.get("/info", headers={"Origin": origin})).status == 403, origin


@pytest.mark.parametrize(
    "origin",
    ["https://app.example/", "https://app.example/x", "app.example", "*", "https://*.example", "null", "https://a@b.c",
     "https://", "https://app.example?", "https://app.example:x", "", "https://a.example, https://b.example"],
)  # fmt: skip
def test_an_origin_that_matches_no_page_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match=r"^allowed_origins: .* matches no page"):
        AsgiConfig(allowed_origins=("https://right.example", origin))


@pytest.mark.parametrize(
    "host",
    [
        "app.example:4000",
        "https://app.example",
        "app.example/",
        "*",
        "*.example",
        "",
        "a b",
        "a@b",
        "[::1",
        "::1:99999:x",
    ],
)
def test_a_host_that_matches_no_request_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"^allowed_hosts: .* matches no Host"):
        AsgiConfig(allowed_hosts=("right.example", host))


@both_servers
async def test_no_proxy_may_keep_or_hold_back_what_is_sent_as_it_comes(api: Api) -> None:
    id = await api.submit("gate")
    for method, path, body in (("HEAD", f"/api/jobs/{id}/events", None), ("POST", "/api/jobs/stream", JOB)):
        async with api.session.request(method, api.url + path, data=body) as answer:
            assert answer.status == 200, path
            assert answer.headers["X-Accel-Buffering"] == "no", path
            assert answer.headers["Cache-Control"] == "no-store", path


def test_all_wrong_sites_of_a_list_are_named_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"^allowed_origins: '\*' matches no page: .*; 'app\.example' matches no page: "
    ):
        AsgiConfig(allowed_origins=("*", "https://ok.example", "app.example"))
    with pytest.raises(ValueError, match=r"^allowed_hosts: '\*', 'a:80' match no Host: "):
        AsgiConfig(allowed_hosts=("*", "ok.example", "a:80"))
