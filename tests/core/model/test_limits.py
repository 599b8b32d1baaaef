"""Limits: unset fields, and values that are refused."""

import math

import pytest

from nodekit import ClientLimits
from nodekit.model.limits import NodeLimits, finite


def test_what_a_client_has_of_its_own_comes_before_what_each_has() -> None:
    each = ClientLimits(max_pending=9, max_priority=3)
    assert ClientLimits(max_pending=2, max_priority=0).over(each) == ClientLimits(max_pending=2, max_priority=0)
    assert ClientLimits(max_pending=2).over(each) == ClientLimits(max_pending=2, max_priority=3)
    assert ClientLimits(max_priority=5).over(each) == ClientLimits(max_pending=9, max_priority=5)
    assert ClientLimits().over(each) == each
    assert each.over(ClientLimits()) == each


def test_limits_as_they_are_by_themselves_are_no_problem() -> None:
    assert list(NodeLimits().problems()) == []
    limits = NodeLimits(clients={"bob": ClientLimits(max_pending=1)}, queue_timeout_seconds=math.inf)
    assert list(limits.problems()) == []


def test_a_limit_that_cannot_be_is_named_by_its_place_and_what_it_may_be() -> None:
    [problem] = NodeLimits(each_client=ClientLimits(max_pending=0)).problems()
    assert (problem.where, problem.text) == ("each_client.max_pending", "expected `int` >= 1")


@pytest.mark.parametrize(("seconds", "stored"), [(0.5, 0.5), (86_400.0, 86_400.0), (math.inf, None), (None, None)])
def test_no_limit_is_stored_as_none(seconds: float | None, stored: float | None) -> None:
    assert finite(seconds) == stored
