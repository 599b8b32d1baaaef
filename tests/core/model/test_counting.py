"""Numbers of things in texts."""

import pytest

from nodekit import counted


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((0, "job"), "0 jobs"),
        ((1, "job"), "1 job"),
        ((2, "more problem", "is", "are"), "2 more problems are"),
        ((1, "byte", "was", "were"), "1 byte was"),
    ],
)
def test_one_thing_is_told_as_one(given: tuple[int, str], expected: str) -> None:
    assert counted(*given) == expected
