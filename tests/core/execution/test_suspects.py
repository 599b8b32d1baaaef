"""Suspects: one at a time, until a step of it is stored or its run has ended."""

from typing import Any

from nodekit.execution.suspects import Suspects


class Lost:
    """A claim of a job that was lost before."""

    def __init__(self, takeovers: int) -> None:
        self.takeovers: Any = takeovers


def test_one_suspect_is_welcome_at_a_time() -> None:
    suspects = Suspects(3)
    assert suspects.welcome
    first, second = Lost(1), Lost(2)
    suspects.begin(first)  # type: ignore[arg-type]
    suspects.begin(second)  # type: ignore[arg-type]
    for claim, welcome in ((first, False), (first, False), (Lost(1), False), (second, True), (second, True)):
        suspects.end(claim)  # type: ignore[arg-type]
        assert suspects.welcome == welcome


def test_claims_of_suspects_are_counted() -> None:
    suspects = Suspects(2)
    for takeovers in (1, 1, 2, 3):
        suspects.begin(Lost(takeovers))  # type: ignore[arg-type]
    assert (suspects.claims, suspects.poison) == (4, 0), "poison is counted when its end is stored"
