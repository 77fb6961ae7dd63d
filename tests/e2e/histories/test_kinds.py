"""Which fault is next in a soak: chance decides, and none is left out."""

from __future__ import annotations

from random import Random

from tests.e2e.histories.faults import FAULTS
from tests.e2e.histories.soaking import Kinds


def test_each_kind_has_its_turn() -> None:
    """Once in a round, in an order of the seed's."""
    rounds: list[list[str]] = []
    for seed in (1, 1, 2):
        kinds = Kinds(list(FAULTS), Random(seed))
        rounds.append([kinds.next() for _ in FAULTS])
        assert sorted(rounds[-1]) == sorted(FAULTS)
    assert rounds[0] == rounds[1] != rounds[2]


def test_a_kind_that_nobody_felt_comes_again_in_its_round() -> None:
    """Also where there was nothing to hurt; and until it was felt it is missing."""
    kinds = Kinds(["cut", "delay", "refuse"], Random(3))
    first, second, third = (kinds.next() for _ in range(3))
    kinds.ended(first, is_felt=False)
    kinds.ended(second, is_felt=True)
    kinds.ended(third, is_felt=True)
    assert kinds.missing == [first]
    assert kinds.next_missing() == first
    assert kinds.next() == first
    kinds.ended(first, is_felt=True)
    assert kinds.missing == []
    assert (kinds.felt[first], kinds.felt[second]) == (1, 1)
