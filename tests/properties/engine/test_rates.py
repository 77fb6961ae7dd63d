"""Properties of rates: see `sidecar/engine/README.md`."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.engine.rates import MICRO, Bucket, give_back, refill, take
from tests.properties.engine.worlds import quick

BURST = 60
PER_SECOND = 3
RATE = PER_SECOND * MICRO


def full(at: int) -> Bucket:
    """A bucket with its burst in it."""
    return Bucket(BURST * MICRO, RATE, BURST, at)


@quick
@given(st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 40)), max_size=40))
def test_a_bucket_bounds_every_window(moves: list[tuple[int, int]]) -> None:
    """In any window T at most burst + rate × T passes."""
    bucket, at = full(0), 0
    passed: list[tuple[int, int]] = []
    for passes, amount in moves:
        at += passes
        bucket, wait = take(bucket, amount, at)
        passed += [(at, amount)] if wait == 0 else []
    for i, (start, _) in enumerate(passed):
        total = 0
        for end, amount in passed[i:]:
            total += amount
            assert total * MICRO <= BURST * MICRO + PER_SECOND * (end - start)


@quick
@given(st.integers(0, 10**7), st.integers(1, 10**9), st.lists(st.integers(0, 10**6), max_size=20))
def test_refilling_in_steps_is_refilling_at_once(
    micro_per_second: int, burst: int, pauses: list[int]
) -> None:
    """However often a bucket is looked at, it refills alike, to a micro-unit."""
    start = Bucket(0, micro_per_second, burst, 0)
    stepped, at = start, 0
    for pause in pauses:
        at += pause
        stepped = refill(stepped, at)
    at_once = refill(start, at)
    assert 0 <= at_once.micro_tokens - stepped.micro_tokens <= len(pauses)


@quick
@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 10**8))
def test_waiting_as_told_is_enough(amount: int, spent: int, at: int) -> None:
    """After the wait that a refusal names the take succeeds, and a microsecond earlier it does not."""
    bucket, _ = take(full(at), spent, at)
    after, wait = take(bucket, amount, at)
    if wait:
        assert take(after, amount, at + wait)[1] == 0
        assert wait == 1 or take(after, amount, at + wait - 1)[1] > 0


@quick
@given(st.integers(0, 60), st.integers(0, 60))
def test_giving_back_undoes_a_take(spent: int, given_back: int) -> None:
    """What is given back can be taken again, never above the burst."""
    bucket, _ = take(full(0), spent, 0)
    assert give_back(bucket, given_back).tokens == min(BURST, BURST - spent + given_back)
