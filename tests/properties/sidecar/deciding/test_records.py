"""Decided usage is written by hand as the protobuf library would write it."""

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import usage_pb2 as usage
from sidecar.deciding.records import DecidedForm, decided, lease_changes, set_instant
from sidecar.engine.entitlement import BalanceSpec
from sidecar.engine.evaluate import CostCharge, Draw
from sidecar.engine.values import BalanceKind, BalanceRef, format_decimal
from sidecar.leases.terms import Taken
from sidecar.outbox.port import LeaseChange

texts = st.text(st.characters(codec="utf-8"), max_size=200)
names = st.sampled_from(["chat", "search", ""])
refs = st.builds(BalanceRef, texts, names, st.sampled_from(["wallet:usd", "allowance:chat", "rate:chat"]))
amounts = st.integers(0, 2**63 - 1)
exacts = st.decimals(0, 10**12, places=12)
specs = st.builds(
    BalanceSpec,
    name=names,
    kind=st.sampled_from([BalanceKind.WALLET, BalanceKind.ALLOWANCE, BalanceKind.RATE]),
    unit=names,
    scale=st.just(9),
    limit=st.just(5),
)
draws = st.builds(Draw, refs, names, amounts, amounts, amounts, exacts, specs)
costs = st.builds(CostCharge, names, texts, amounts, names, st.just(9), amounts, exacts, amounts, exacts)
parts_taken = st.builds(Taken, refs, names, texts, amounts, amounts, st.booleans())


@given(
    st.builds(usage.UsageEvent, customer_id=texts, event_name=texts, idempotency_key=texts),
    st.binary(max_size=32),
    texts,
    st.datetimes(timezones=st.just(UTC)),
    amounts,
    st.lists(draws, max_size=3),
    st.lists(costs, max_size=2),
    st.lists(parts_taken, max_size=4),
    st.booleans(),
)
def test_decided_usage_written_by_hand_is_the_librarys(
    event: usage.UsageEvent,
    content_hash: bytes,
    decision_id: str,
    decided_at: datetime,
    revision: int,
    draws: list[Draw],
    costs: list[CostCharge],
    covered: list[Taken],
    by_verdict: bool,
) -> None:
    """Whatever is charged, the bytes are read as the message that the library would have written."""
    covered += [Taken(draw.ref, draw.feature, "lease", 7, 0, is_rate=False) for draw in draws[:1]]
    written, _ = decided(
        event,
        content_hash=content_hash,
        decision_id=decision_id,
        decided_at=decided_at,
        view_revision=revision,
        draws=draws,
        costs=costs,
        covered=tuple(covered),
        by_verdict=by_verdict,
    )
    said = sync.Usage(
        event=event,
        content_hash=content_hash,
        decided=True,
        decision_id=decision_id,
        view_revision=revision,
        charges=[charge(draw, covered) for draw in draws if draw.spec.kind is not BalanceKind.RATE],
        costs=[priced(cost) for cost in costs],
        by_verdict=by_verdict,
    )
    set_instant(said.decided_at, decided_at)
    assert sync.Usage.FromString(written) == said


@given(
    st.lists(draws, max_size=2),
    st.lists(st.lists(parts_taken, max_size=3).map(tuple), min_size=2, max_size=4),
)
def test_a_form_that_is_used_again_says_what_a_new_one_would(
    draws: list[Draw], takes: list[tuple[Taken, ...]]
) -> None:
    """Whatever paid for the calls before: what is kept of them is in no later record, nor in its lease changes."""
    form = DecidedForm(draws, ())
    own = tuple(Taken(d.ref, d.feature, "lease", 7, 0, is_rate=False) for d in draws)
    for some in [*takes, *takes]:
        covered = some + own
        record, changes = _encoded(form, covered)
        assert (record, changes) == _encoded(DecidedForm(draws, ()), covered)
        assert changes == lease_changes(covered)


def _encoded(form: DecidedForm, covered: tuple[Taken, ...]) -> tuple[bytes, tuple[LeaseChange, ...]]:
    return form.encoded(
        b"e", content_hash=b"h", decision_id="d", decided_at=b"", view_revision=7, covered=covered
    )


def charge(draw: Draw, covered: list[Taken]) -> sync.Charge:
    """What one draw charges, in the library's words."""
    ref = draw.ref
    return sync.Charge(
        ref=session.BalanceRef(customer_id=ref.customer_id, subject_id=ref.subject_id, balance=ref.balance),
        covered=[
            session.LeaseAmount(lease_id=part.lease_id, amount=part.amount)
            for part in covered
            if not part.is_rate and (part.ref, part.feature) == (ref, draw.feature)
        ],
        uncovered=draw.uncovered,
        exact=format_decimal(draw.exact),
        feature=draw.feature,
    )


def priced(cost: CostCharge) -> sync.Cost:
    """A cost in the library's words; nothing billed is an empty text."""
    return sync.Cost(
        feature=cost.feature,
        rate_card=cost.rate_card,
        catalog_revision=cost.catalog_revision,
        unit=cost.unit,
        amount=cost.amount,
        exact=format_decimal(cost.exact),
        billed=cost.billed,
        billed_exact=format_decimal(cost.billed_exact) if cost.billed_exact != Decimal(0) else "",
    )
