"""Shares of a rate: in any window T at most burst + rate x T pass, over all holders."""

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.leases.rates import Bucket, Share, hand_over
from sidecar.engine.rates import MICRO

AT = datetime(2030, 1, 1, tzinfo=UTC)
STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(0, 20), st.integers(0, 40)), max_size=40
)


@settings(deadline=None)
@given(
    burst=st.integers(1, 100),
    rate=st.integers(1, 50),
    steps=STEPS,
)
def test_no_window_lets_more_through(burst: int, rate: int, steps: list[tuple[int, int, int, int]]) -> None:
    """Holders spend all that they are given and all that they refill at once; still no window passes its bound."""
    bucket = Bucket(
        balance_id="b",
        micro_tokens=burst * MICRO,
        refilled_at=AT,
        burst=burst,
        micro_per_second=rate * MICRO,
        shares=[],
    )
    now = AT
    passed: list[tuple[datetime, int]] = []
    for who, seconds, need, amount in steps:
        for share in bucket.shares:
            # The holder stops at the latest when its share is free again: it refills until then.
            until = min(now + timedelta(seconds=seconds), share.free_at)
            micro = share.micro_per_second * int((until - now).total_seconds())
            passed.append((until, micro))
        now += timedelta(seconds=seconds)
        bucket.refill(now)
        fresh = Share(
            id=f"s{who}-{len(passed)}",
            balance_id="b",
            outbox_id=str(who),
            incarnation_id="i",
            micro_per_second=0,
            burst=0,
            free_at=now,
        )
        mine = next((share for share in bucket.shares if share.outbox_id == str(who)), fresh)
        handed = hand_over(
            bucket, mine, need=need, amount=max(need, amount), free_at=now + timedelta(seconds=25)
        )
        if handed is not None:
            passed.append((now, handed.tokens * MICRO))
        assert 0 <= bucket.micro_tokens <= bucket.most
        assert sum(share.burst for share in bucket.shares) <= burst
        assert sum(share.micro_per_second for share in bucket.shares) <= rate * MICRO
        total = sum(micro for _, micro in passed)
        assert total <= (burst + rate * (now - AT).total_seconds()) * MICRO
