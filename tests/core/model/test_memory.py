"""Sizes as people write them, and the memory that there is."""

import os

import pytest

from nodekit import NodeLimits
from nodekit.model.memory import machine_memory, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (123, 123),
        ("123", 123),
        ("1KiB", 1024),
        ("1.5 MiB", 3 << 19),
        ("512MiB", 512 << 20),
        (" 2GiB ", 2 << 30),
    ],
)
def test_sizes_are_numbers_or_texts_with_a_unit(text: int | str, size: int) -> None:
    assert parse_bytes("memory", text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", -1, True, "1MB", "1e9", "1 PiB", "9" * 5000, "٣MiB", "1..5GiB"])
def test_anything_else_is_an_error_that_names_the_setting(text: int | str) -> None:
    with pytest.raises(ValueError, match=r"^memory: expected a number of bytes, or a text such as"):
        parse_bytes("memory", text)


def test_the_budget_is_a_quarter_of_the_memory_by_default() -> None:
    assert 0 < machine_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert NodeLimits().memory_bytes == max(64 << 20, machine_memory() // 4)
    assert NodeLimits(memory="1GiB").memory_bytes == 1 << 30
    with pytest.raises(ValueError, match="memory: expected at least 64MiB, got 1000"):
        NodeLimits(memory=1000)
