"""A balance of an answer that is given again and again, against the way of every answer."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from purser.v1 import decision_pb2 as answers
from sidecar.deciding.standings import Standings, told
from sidecar.deciding.unreported import Unreported
from sidecar.engine.decision import balance_state, near_limits
from sidecar.engine.entitlement import BalanceSpec
from sidecar.engine.values import BalanceKind, BalanceRef
from sidecar.leases.book import LeaseBook
from sidecar.rpc.fast_consume import Shown
from sidecar.rpc.wire import balance_message
from sidecar.view.hints import Hint
from sidecar.view.memory import View
from sidecar.view.pulse import Pulse

NOW = datetime(2026, 11, 25, tzinfo=UTC)
REF = BalanceRef("acme", "", "wallet:usd")
AMOUNTS = st.integers(0, 10**12)


def specs() -> st.SearchStrategy[BalanceSpec]:
    """Wallets, and limits of which some are not there."""
    return st.builds(
        lambda kind, limit, scale: BalanceSpec(name="b", kind=kind, unit="usd", scale=scale, limit=limit),
        st.sampled_from([BalanceKind.WALLET, BalanceKind.ALLOWANCE, BalanceKind.RATE]),
        st.none() | AMOUNTS,
        st.integers(0, 12),
    )


def hints() -> st.SearchStrategy[Hint | None]:
    """Also of a period that is over."""
    made = st.builds(
        lambda granted, used, overage, days: Hint(
            ref=REF,
            version=1,
            granted=granted,
            used=used,
            overage=overage,
            available=0,
            leased=0,
            period_start=None,
            period_end=None if days is None else NOW + timedelta(days=days),
            next_expiry_at=NOW,
        ),
        st.none() | AMOUNTS,
        AMOUNTS,
        st.just(0) | AMOUNTS,
        st.none() | st.sampled_from([-1, 1]),
    )
    return st.none() | made


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Hint | None, int, int]]:
    """What the view hints, what is not reported and what is held, moment by moment; a hint may last for several."""
    some = draw(st.lists(hints(), min_size=1, max_size=3))
    moments = st.tuples(st.sampled_from(some), st.just(0) | AMOUNTS, st.just(0) | AMOUNTS)
    return draw(st.lists(moments, min_size=1, max_size=5))


@given(spec=specs(), history=histories(), drawn=AMOUNTS)
def test_a_shown_balance(spec: BalanceSpec, history: list[tuple[Hint | None, int, int]], drawn: int) -> None:
    """It says what the usual answer says with the draw counted, or nothing: where something is over, held, or near its
    limit.
    """
    view = View(bound=10, in_use_max=10, pulse=Pulse(), now=lambda: NOW, pinned=lambda _: False)
    book, unreported = LeaseBook(), Unreported()
    standings = Standings(view, book, unreported)
    shown = Shown(standings, REF, spec, drawn)
    last = None
    for number, (hint, outstanding, reserved) in enumerate(history, 1):
        if hint is None:
            view.start_over(number)
        elif hint is not last:
            view.apply_hints([replace(hint, version=number).as_message()], counted_through=0)
        last = hint
        unreported.charged(number, [(REF, outstanding - unreported.of(REF))])
        book.restore_hold(REF, "lease", reserved - book.held(REF))
        standing = standings.one(REF, spec, NOW)
        after = replace(standing, used=standing.used + drawn)
        state = balance_state(spec, after)
        encoded = shown.encoded(NOW)
        is_over = state.limit is not None and state.used > state.limit
        if standing.overage or reserved or is_over or near_limits((state,)):
            assert encoded is None
        else:
            assert encoded is not None
            assert answers.Decision.FromString(encoded).balances[0] == balance_message(state)
        assert told(spec, view.hint(REF), NOW).used <= standing.used
