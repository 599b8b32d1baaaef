"""Addresses that cannot be listened on: the message names the address, who has it, and what to do."""

import re
import socket
from pathlib import Path

import pytest

from nodekit import NodekitError
from nodekit_asgi.server.listen import check_free, listen

OURS = "another transport of this process has it; write another address in `bind`"


def refusal(bind: str) -> str:
    with pytest.raises(NodekitError) as raised:
        check_free(bind)
    with pytest.raises(NodekitError) as listened:
        listen(bind)
    assert str(listened.value) == str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_port_that_is_taken_is_told_with_its_process(host: str) -> None:
    try:
        taken = listen(f"{host}:0")
    except NodekitError:
        pytest.skip("this machine has no such address")
    with taken:
        bind = f"{host}:{taken.getsockname()[1]}"
        assert re.fullmatch(rf"cannot listen on {re.escape(bind)}: Address already in use; {OURS}", refusal(bind))
    check_free(bind)


def test_a_connection_of_before_that_waits_for_its_end_does_not_hinder_a_restart() -> None:
    with listen("127.0.0.1:0") as before:
        bind = f"127.0.0.1:{before.getsockname()[1]}"
        before.setblocking(True)
        with socket.create_connection(before.getsockname()) as client:
            accepted, _ = before.accept()
            accepted.close()  # first, so this side waits
            assert client.recv(1) == b""
    check_free(bind)
    listen(bind).close()


def test_what_is_at_the_path_of_a_unix_socket_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind = f"unix:{path}"
    with listen(bind):
        assert re.search(OURS, refusal(bind))
    check_free(bind)  # its process has ended
    path.unlink()
    path.touch()
    assert "something that is no socket is there" in refusal(bind)
    path.unlink()
    check_free(bind)
    assert not path.exists()
    assert "there is no such folder" in refusal(f"unix:{tmp_path}/none/s")


@pytest.mark.parametrize(
    ("bind", "cure"),
    [("192.0.2.1:4000", "0.0.0.0 for all"), ("no-such-host.invalid:4000", "correct the name of the host")],
)
def test_an_address_that_is_not_of_this_machine_has_a_cure(bind: str, cure: str) -> None:
    assert cure in refusal(bind)
