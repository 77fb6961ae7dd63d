"""Token buckets, by example."""

from sidecar.engine.rates import MICRO, Bucket, refill, take
from tests.unit.engine.worlds import entitled, subscription

SECOND = 1_000_000


def test_a_plan_s_rate_starts_full_and_refills() -> None:
    """600 calls a minute: 600 at once, then ten a second."""
    spec = entitled(subscription("pro")).balances["rate:api_calls/requests/PT1M"]
    bucket = Bucket(spec.burst * MICRO, spec.micro_per_second, spec.burst, 0)
    bucket, wait = take(bucket, 600, 0)
    assert wait == 0
    assert take(bucket, 1, 0)[1] == SECOND // 10
    assert take(bucket, 1, SECOND // 10)[1] == 0
    assert take(bucket, 601, SECOND * 999)[1] == -1
    assert refill(bucket, SECOND * 999).tokens == 600


def test_a_slow_rate_loses_nothing_to_rounding() -> None:
    """One a day, looked at every second, is there after a day."""
    per_second = 1 * MICRO // 86_400
    bucket = Bucket(0, per_second, 1, 0)
    for second in range(0, 86_401 + 60_000, 7):
        bucket = refill(bucket, second * SECOND)
    assert bucket.tokens == 1


def test_a_clock_that_steps_back_gives_nothing() -> None:
    """An earlier instant leaves the bucket as it is."""
    bucket = Bucket(5, 10, 10, 100 * SECOND)
    assert refill(bucket, 50 * SECOND) == bucket
