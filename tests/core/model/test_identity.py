"""Groups of clients."""

import pytest

from nodekit import Identity, JobRequest, default_group


@pytest.mark.parametrize(
    ("client", "group"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("unix", "unix"),
        ("name:testclient", "name:testclient"),
        ("key:a:b", "key:a:b"),
    ],
)
def test_a_client_is_its_own_group_but_for_the_addresses_of_one_network(client: str, group: str) -> None:
    assert default_group(client) == group
    assert Identity(client=client).group == group
    assert JobRequest.of("echo", data={}, client=client).in_group == group


def test_a_group_that_is_given_is_kept() -> None:
    assert Identity(client="2001:db8::1", group="team").group == "team"
