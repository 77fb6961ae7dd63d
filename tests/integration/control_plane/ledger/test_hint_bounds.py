"""Hints stay within what the wire can carry."""

from datetime import UTC, datetime

from control_plane.ledger.balances import Standing
from control_plane.ledger.rows import BalanceRow


def test_a_sum_beyond_int64_is_hinted_as_the_largest_number() -> None:
    """A balance whose used amounts add up to more than int64 still has a hint; others' feed goes on."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    row = BalanceRow(
        id="b", customer_id="acme", subject_id="", name="credits", kind="WALLET", unit="credit",
        scale=0, overage=0, version=1, changed_at=now,
    )  # fmt: skip
    most = 2**63 - 1
    standing = Standing(row, most + 1, available=-most - 9, spent=most, overage=1, leased=most, quarantined=1)
    hint = standing.hint()
    assert (hint.used, hint.granted, hint.leased, hint.available) == (most, most, most, -most)
    assert Standing(row, None).hint().HasField("granted") is False
