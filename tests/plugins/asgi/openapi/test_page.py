"""The page to read and try the API: the node serves everything that it needs."""

import re
from collections.abc import AsyncIterator
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest
from connections import ask
from http_api import Api, both_servers, serving

import nodekit_asgi
from nodekit_asgi.api import docs_page as _docs

pytestmark = pytest.mark.anyio

OWN = Path(nodekit_asgi.__file__).parent / "page"
REFERENCE = re.compile(r"""(?:href|src)="([^"]*)\"""")
FOREIGN = re.compile(r"(?:https?:)?//([a-z0-9-]+(?:\.[a-z0-9-]+)+)", re.IGNORECASE)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving("hypercorn") as api:
        yield api


async def test_all_that_the_page_refers_to_is_served_by_the_node(api: Api) -> None:
    page = await api.get("/docs")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    found = set(REFERENCE.findall(page.body.decode()))
    assert found == {"data:,", "openapi.json", *(f"docs/{name}" for name in _docs.ASSETS)}
    for name in found - {"data:,"}:
        answer = await api.get(f"/{name}")
        assert answer.status == 200, name
        assert len(answer.body) > 100


async def test_nothing_of_ours_names_another_host(api: Api) -> None:
    files = [file.read_text() for file in OWN.iterdir()]
    assert len(files) == 3
    for text in [*files, (await api.get("/docs")).body.decode()]:
        assert "http" not in text
        assert "//" not in re.sub(r"^ *//.*|  // .*|, // .*", "", text, flags=re.MULTILINE)


async def test_hosts_that_the_carried_files_name_are_not_called(api: Api) -> None:
    """They are namespaces, links that a reader may follow, and one service, which is switched off.

    What another version might call is kept from it by the policy, and this list makes its reader look.
    """
    script = (await api.get("/docs/swagger-ui-bundle.js")).body.decode()
    assert set(FOREIGN.findall(script)) >= {"validator.swagger.io"}
    assert 'validatorUrl: "none"' in (await api.get("/docs/start.js")).body.decode()
    style = (await api.get("/docs/swagger-ui.css")).body.decode()
    assert "@import" not in style
    for target in re.findall(r"url\(\s*[\"']?([^)]{5})", style):
        assert target.startswith("data:")


async def test_the_policy_lets_the_page_load_and_call_nothing_but_the_node(api: Api) -> None:
    for path in ("/docs", *(f"/docs/{name}" for name in _docs.ASSETS)):
        headers = (await api.get(path)).headers
        policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert "http" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    page = (await api.get("/docs")).body.decode()
    assert re.findall(r"<script(?![^>]* src=)", page) == []
    assert re.findall(r"\son\w+=|style=", page) == []


async def test_files_are_asked_for_again_but_not_sent_again(api: Api) -> None:
    first = await api.get("/docs/swagger-ui-bundle.js")
    assert first.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert first.headers["Cache-Control"] == "no-cache"
    again = await api.get("/docs/swagger-ui-bundle.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert "Content-Length" not in again.headers
    other = await api.get("/docs/start.js", headers={"If-None-Match": first.headers["ETag"]})
    assert other.status == 200


OTHERS = (
    *("/docs/", "/docs/index.html", "/docs/missing.html", "/docs/swagger_bundle.js", "/docs/scalar.js"),
    *("/docs/../_docs.py", "/docs/..%2f_docs.py", "/docs/%2e%2e/_docs.py"),
    *("/docs/start.js/", "/docs/start.js%00", "/docs//etc/passwd"),
)


@both_servers
async def test_nothing_else_can_be_had(server: str) -> None:
    """Servers decode paths before an app sees them."""
    async with serving(server) as api:
        for path in OTHERS:
            async with api.raw() as connection:
                await connection.send(ask(path))
                answer = await connection.answer()
            assert (answer.status, answer.error) == (404, "no such path"), path


async def test_the_page_is_for_those_who_may_call_the_node(api: Api) -> None:
    for path in ("/docs", "/docs/start.js", "/openapi.json"):
        assert (await api.get(path, headers={"Host": "evil.example"})).status == 403
        assert (await api.get(path, headers={"Origin": "https://evil.example"})).status == 403
        assert (await api.call("POST", path)).status == 405


async def test_where_the_package_is_missing_the_page_says_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docs, "CARRIER", "nowhere_to_be_found")
    page = await api.get("/docs")
    assert page.status == 200
    assert "offapi" in page.body.decode()
    assert 'href="openapi.json"' in page.body.decode()
    assert (await api.get("/docs/swagger-ui-bundle.js")).status == 404
    assert (await api.get("/openapi.json")).status == 200


RELEASE = {  # of the npm package swagger-ui-dist 5.33.1
    "swagger-ui-bundle.js": "050bc415ee7048dcd881682678f720264e7da5e373f7461d7c58c755305255f7",
    "swagger-ui.css": "1ac324f7dcd27e4b9386b4bd6421271ec147e922a22c05ba24b11515e9aa6321",
}
"""SHA-256 of its files. After taking another version of the carrier: `npm pack swagger-ui-dist@…`, and compare."""


def test_the_carried_files_are_those_of_the_release_that_npm_has() -> None:
    carrier = find_spec(_docs.CARRIER)
    assert carrier is not None
    folder = Path(str(carrier.origin)).parent
    files = {name: folder / asset.name for name, asset in _docs.ASSETS.items() if asset.carried}
    assert {name: sha256(file.read_bytes()).hexdigest() for name, file in files.items()} == RELEASE
