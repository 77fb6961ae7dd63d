"""A balance of an answer that is given again and again, against the way of every answer."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from purser.v1 import decision_pb2 as answers
from sidecar.deciding.standings import Standings, told
from sidecar.engine.decision import balance_state, near_limits
from sidecar.engine.entitlement import BalanceSpec
from sidecar.engine.values import BalanceKind, BalanceRef
from sidecar.rpc.fast_consume import Shown
from sidecar.rpc.wire import balance_message
from sidecar.view.hints import Hint

NOW = datetime(2026, 11, 25, tzinfo=UTC)
REF = BalanceRef("acme", "", "wallet:usd")
AMOUNTS = st.integers(0, 10**12)


@dataclass
class Known:
    """The view's hint, what is not reported, and what is held."""

    last: Hint | None
    outstanding: int
    reserved: int

    def hint(self, _ref: BalanceRef) -> Hint | None:
        """As the view."""
        return self.last

    def of(self, _ref: BalanceRef) -> int:
        """As what is unreported."""
        return self.outstanding

    def held(self, _ref: BalanceRef) -> int:
        """As the book."""
        return self.reserved


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


@given(
    spec=specs(),
    steps=st.lists(st.tuples(hints(), st.just(0) | AMOUNTS, st.just(0) | AMOUNTS), min_size=1, max_size=4),
    drawn=AMOUNTS,
)
def test_a_shown_balance(spec: BalanceSpec, steps: list[tuple[Hint | None, int, int]], drawn: int) -> None:
    """It says what the usual answer says with the draw counted, or nothing: where something is over, held, or near its
    limit.
    """
    known = Known(None, 0, 0)
    standings = Standings(known, known, known)  # type: ignore[arg-type]
    shown = Shown(standings, REF, spec, drawn)
    for known.last, known.outstanding, known.reserved in steps:
        standing = standings.one(REF, spec, NOW)
        after = standing._replace(used=standing.used + drawn)
        state = balance_state(spec, after)
        encoded = shown.encoded(NOW)
        is_over = state.limit is not None and state.used > state.limit
        if standing.overage or known.reserved or is_over or near_limits((state,)):
            assert encoded is None
        else:
            assert encoded is not None
            assert answers.Decision.FromString(encoded).balances[0] == balance_message(state)
        assert told(spec, known.last, NOW).used <= standing.used
