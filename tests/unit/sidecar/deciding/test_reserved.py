"""How a reservation is written down, and how holds pay draws."""

from datetime import UTC, datetime
from decimal import Decimal

from sidecar.deciding.reserved import Hold, Line, Reserved, allot, decode, encode
from sidecar.engine.entitlement import BalanceSpec
from sidecar.engine.evaluate import Draw
from sidecar.engine.reservation import ReservationState
from sidecar.engine.values import BalanceKind, BalanceRef

AT = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)
WALLET = BalanceRef("acme", "", "wallet:usd")
OTHER = BalanceRef("acme", "", "budget:daily")
SPEC = BalanceSpec(name="wallet:usd", kind=BalanceKind.WALLET, unit="usd", scale=9)


def draw(ref: BalanceRef, within: int, beyond: int = 0, feature: str = "chat") -> Draw:
    """A draw on one balance."""
    return Draw(ref, feature, within, beyond, 0, Decimal(within + beyond), SPEC)


def test_what_was_written_comes_back() -> None:
    """Every field survives a restart."""
    reserved = Reserved(
        reservation_id="r",
        version=3,
        state=ReservationState.OPEN,
        customer_id="acme",
        subject_id="ann",
        feature="chat",
        event=b"\x12\x04acme",
        content_hash=b"\x00" * 32,
        decision=b"\xff\x01",
        decision_id="d1",
        view_revision=7,
        reserved_at=AT,
        expires_at=AT,
        holds=(Hold(WALLET, "chat", "lease", 75, 5),),
        units=(Line("wallet:usd", "usd", 9, 1),),
        was_settled=True,
        totals={"input_tokens": Decimal("412.5")},
        charged=(Line("wallet:usd", "usd", 9, 70),),
        recorded_as="r#late",
        late=1,
        is_fact=True,
    )
    assert decode(encode(reserved), 3) == reserved


def test_holds_pay_the_draws_of_their_balance() -> None:
    """What is held pays first, the rest of the hold is left, and what is above it is missing."""
    holds = (
        Hold(WALLET, "chat", "l1", 50, 0),
        Hold(WALLET, "chat", "l2", 50, 0),
        Hold(OTHER, "chat", "l3", 10, 0),
    )
    allotted = allot(holds, [draw(WALLET, 60), draw(OTHER, 25)])
    assert [(p.lease_id, p.amount) for p in allotted.paid] == [("l1", 50), ("l2", 10), ("l3", 10)]
    assert [(h.lease_id, h.amount) for h in allotted.left] == [("l2", 40)]
    assert [(d.ref, d.within) for d in allotted.missing] == [(OTHER, 15)]


def test_nothing_is_paid_twice() -> None:
    """Whatever the draws, what is paid and what is left is what was held."""
    holds = (Hold(WALLET, "chat", "l1", 30, 10), Hold(WALLET, "search", "l2", 30, 0))
    for within in range(0, 80, 7):
        for beyond in range(0, 30, 7):
            allotted = allot(holds, [draw(WALLET, within, beyond)])
            paid = sum(part.amount for part in allotted.paid)
            left = sum(hold.amount for hold in allotted.left)
            missing = sum(d.within + d.beyond for d in allotted.missing)
            assert paid + left == 60
            assert paid + missing == within + beyond
