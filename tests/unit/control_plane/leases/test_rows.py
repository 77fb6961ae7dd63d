"""A lease's totals say what each of its slices lost."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from control_plane.leases.rows import LeaseRow, Slice

AT = datetime(2030, 1, 1, tzinfo=UTC)


def lease(*amounts: int) -> LeaseRow:
    """A lease of so many slices."""
    return LeaseRow(
        id="lease",
        balance_id="balance",
        outbox_id="outbox",
        incarnation_id="incarnation",
        scope=[],
        allotted=sum(amounts),
        unsettled=sum(amounts),
        begins_at=AT,
        ends_at=AT + timedelta(seconds=60),
        never_after=None,
        quarantine_at=AT + timedelta(seconds=66),
        revision=1,
        created_at=AT,
        changed_at=AT,
        slices=[Slice(f"grant-{n}", amount) for n, amount in enumerate(amounts)],
    )


def test_slices_burn_from_the_front_and_return_from_the_back() -> None:
    """Spending follows burn order; returning goes the other way."""
    row = lease(10, 20, 30)
    assert row.spend(15) == [Slice("grant-0", 10), Slice("grant-1", 5)]
    assert row.give_back(35) == [Slice("grant-2", 30), Slice("grant-1", 5)]
    assert row.spend(10) == [Slice("grant-1", 10)]
    assert (row.unsettled, row.spent, row.returned) == (0, 25, 35)


@given(
    amounts=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=12),
)
def test_every_slice_is_spent_or_returned_once(amounts: list[int], steps: list[tuple[bool, int]]) -> None:
    """However spending and returning alternate, what each grant paid and got back is at most its slice."""
    row = lease(*amounts)
    paid: Counter[str] = Counter()
    back: Counter[str] = Counter()
    for spends, amount in steps:
        pieces = (
            row.spend(min(amount, row.unsettled)) if spends else row.give_back(min(amount, row.unsettled))
        )
        for piece in pieces:
            (paid if spends else back)[piece.grant_id] += piece.amount
    assert row.allotted == row.unsettled + row.spent + row.returned
    assert paid == Counter({piece.grant_id: piece.amount for piece in row.spent_slices()})
    left = Counter({piece.grant_id: piece.amount for piece in row.unsettled_slices()})
    for piece in row.slices:
        assert paid[piece.grant_id] + back[piece.grant_id] + left[piece.grant_id] == piece.amount


def test_an_instant_is_moved_into_the_window() -> None:
    """Before the lease: its beginning; at or after its end: its last microsecond."""
    row = lease(1)
    assert row.clamp(AT - timedelta(hours=1)) == AT
    assert row.clamp(AT + timedelta(seconds=7)) == AT + timedelta(seconds=7)
    assert row.clamp(AT + timedelta(hours=1)) == AT + timedelta(seconds=60) - timedelta.resolution
