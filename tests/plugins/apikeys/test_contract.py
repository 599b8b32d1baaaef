"""The plugin `apikeys` keeps the promises of plugins that identify callers, and of guards."""

import tempfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from keys import bearer, make_key
from msgspec.structs import replace

from nodekit import Connection, JobRequest
from nodekit.testing import GuardContract, IdentityContract, make_connection, make_request
from nodekit_apikeys import ApiKeys
from nodekit_apikeys._file import KeyChange

KEY, TEXT = make_key("alice")
REVOKED, REVOKED_TEXT = make_key("mallory", revoked=1.0)
OLD, OLD_TEXT = make_key("old", expires=1.0)
BOUND, BOUND_TEXT = make_key("bound", networks=("10.0.0.0/8",), containers=("echo",), pipelines=("sequence",))
READER, READER_TEXT = make_key("reader", scopes=("read",))


@pytest.fixture
def apikeys() -> Iterator[ApiKeys]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys"
        keys = {key.name: key for key in (KEY, REVOKED, OLD, BOUND, READER)}
        KeyChange(path, keys).save()
        yield ApiKeys(path, slow_down_seconds=0)


def with_key(text: str) -> Connection:
    return make_connection(**{name.lower(): value for name, value in bearer(text).items()})


class TestIdentity(IdentityContract):
    @pytest.fixture
    def plugin(self, apikeys: ApiKeys) -> ApiKeys:
        return apikeys

    def known(self) -> Sequence[Connection]:
        here = replace(with_key(BOUND_TEXT), address="10.1.2.3")
        mapped = replace(with_key(BOUND_TEXT), address="::ffff:10.1.2.3")
        plain = [with_key(TEXT), make_connection(x_api_key=TEXT), make_connection(authorization=f"bearer {TEXT}")]
        password = make_connection(authorization=f"Basic {b64encode(f'a:{TEXT}'.encode()).decode()}")
        return [*plain, here, mapped, password, make_connection(authorization="Basic YTpi", x_api_key=TEXT)]

    def unknown(self) -> Sequence[Connection]:
        unix = replace(with_key(BOUND_TEXT), client="unix", address=None)
        other = make_key("alice")[1]
        return [
            *(make_connection(), with_key(""), with_key(other), with_key(REVOKED_TEXT), with_key(OLD_TEXT)),
            *(with_key(TEXT[:-1]), with_key(BOUND_TEXT), unix, with_key(READER_TEXT)),
            make_connection(authorization="Basic YTpi"),
            make_connection(authorization=f"Basic {b64encode(TEXT.encode()).decode()}"),
            make_connection(authorization="Basic /"),
            make_connection(authorization=f"Basic {b64encode(f'a:{TEXT}'.encode()).decode()}", x_api_key="nk_other"),
            make_connection(authorization=f"Bearer {TEXT}", x_api_key=other),
        ]


class TestGuard(GuardContract):
    @pytest.fixture
    def guard(self, apikeys: ApiKeys) -> ApiKeys:
        return apikeys

    def welcome(self) -> Sequence[JobRequest]:
        return [make_request("echo", client="alice"), make_request("echo", client="bound"), make_request("echo")]

    def unwelcome(self) -> Sequence[JobRequest]:
        return [
            make_request("slow", client="bound"),
            make_request("echo", client="mallory"),
            make_request("echo", client="old"),
        ]
