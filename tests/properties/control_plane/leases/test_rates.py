"""Shares of a rate: in any window T at most burst + rate x T pass, over all holders."""

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.leases.rates import Bucket, Share, hand_over
from sidecar.engine.rates import MICRO
from sidecar.leases.share import Share as HeldShare

AT = datetime(2030, 1, 1, tzinfo=UTC)
TTL = timedelta(seconds=20)
FREE_AFTER = timedelta(seconds=25)
"""Of a share, for the control plane: its holder stops before, whatever its clock does."""
MICROSECOND = timedelta(microseconds=1)


class Step(NamedTuple):
    """Time passes; then one holder asks for tokens, or spends what it can of an amount, or all spend all they have."""

    passes: int
    """Microseconds."""
    act: Literal["ask", "spend", "spend all"]
    who: int
    need: int
    amount: int


STEPS = st.lists(
    st.builds(
        Step,
        passes=st.one_of(st.integers(0, 4_000_000), st.integers(0, 40_000_000)),
        act=st.sampled_from(["ask", "spend", "spend all"]),
        who=st.integers(0, 3),
        need=st.integers(0, 20),
        amount=st.integers(0, 100),
    ),
    min_size=10,
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(burst=st.integers(1, 40), rate=st.integers(1, 50), steps=STEPS)
def test_no_window_lets_more_through(burst: int, rate: int, steps: list[Step]) -> None:
    """Real holders save, spend, ask and come back late: no window passes its bound, wherever it begins."""
    bucket = Bucket(
        balance_id="b",
        micro_tokens=burst * MICRO,
        refilled_at=AT,
        burst=burst,
        micro_per_second=rate * MICRO,
        shares=[],
    )
    held: dict[int, HeldShare] = {}
    passed: list[tuple[int, int]] = []
    at = 0
    for place, step in enumerate(steps):
        at += step.passes
        if step.act == "ask":
            _ask(bucket, held, at, step, place)
        elif step.act == "spend all":
            passed += [(at, holder.take_up_to(burst, at / MICRO)) for holder in held.values()]
        elif step.who in held:
            passed.append((at, held[step.who].take_up_to(step.amount, at / MICRO)))
        assert 0 <= bucket.micro_tokens <= bucket.most
        assert sum(share.burst for share in bucket.shares) <= burst
        assert sum(share.micro_per_second for share in bucket.shares) <= rate * MICRO
    for i, (start, _) in enumerate(passed):
        total = 0
        for end, tokens in passed[i:]:
            total += tokens
            assert total * MICRO <= burst * MICRO + rate * (end - start)


def _ask(bucket: Bucket, held: dict[int, HeldShare], at: int, step: Step, place: int) -> None:
    """As `acquire_share` does, and as the lease book takes what it gets."""
    now = AT + at * MICROSECOND
    bucket.refill(now)
    fresh = Share(
        id=f"share-{place}",
        balance_id="b",
        outbox_id=str(step.who),
        incarnation_id="i",
        micro_per_second=0,
        burst=0,
        free_at=now,
    )
    mine = next((share for share in bucket.shares if share.outbox_id == str(step.who)), fresh)
    before = bucket.micro_tokens
    handed = hand_over(
        bucket, mine, need=step.need, amount=max(step.need, step.amount), free_at=now + FREE_AFTER
    )
    if handed is None:
        assert bucket.micro_tokens == before
        return
    assert bucket.micro_tokens == before - handed.tokens * MICRO, "what is not handed over stays"
    share, seconds = handed.share, at / MICRO
    ends_at = seconds + TTL.total_seconds()
    pace = {"micro_per_second": share.micro_per_second, "burst": share.burst}
    known = held.get(step.who)
    if known is not None and known.lease_id == share.id:
        has = known.available(seconds)
        known.prolong(tokens=handed.tokens, now=seconds, ends_at=ends_at, **pace)
        if has < step.need:  # else it would not have asked
            assert known.available(seconds) >= has + handed.tokens, "all of it arrives"
    else:
        held[step.who] = HeldShare(share.id, tokens=handed.tokens, now=seconds, ends_at=ends_at, **pace)
