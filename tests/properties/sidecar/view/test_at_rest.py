"""A view that has room for one customer in use, beside one that has room for all: nobody can tell them apart."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef, Reason
from sidecar.view.entries import Compiled
from sidecar.view.hints import Hint
from sidecar.view.memory import View
from tests.unit.sidecar.view.states import NOW, catalog, customer, view

WHO: Final = ("acme", "bolt", "cube", "dora")
"""The last one is hinted at before it is known, as parents are."""
BALANCES: Final = ("allowance:calls", "wallet:usd")
Told = list[tuple[object, ...]]
Said = tuple[str, str, str, int, int | None, dict[str, int], datetime | None]

numbers = st.integers(0, 3)
times = st.none() | st.integers(0, 3).map(lambda days: NOW + timedelta(days=days, microseconds=days))
said = st.tuples(
    st.sampled_from(WHO),
    st.sampled_from(BALANCES),
    st.sampled_from(["", "ann"]),
    numbers,
    st.none() | numbers,
    st.dictionaries(st.sampled_from(["", "chat"]), numbers, max_size=2),
    times,
)


def balance_hint(
    who: str,
    balance: str,
    subject_id: str,
    version: int,
    granted: int | None,
    scoped: dict[str, int],
    at: datetime | None,
) -> session.BalanceHint:
    """As the feed carries it."""
    message = session.BalanceHint(
        ref=session.BalanceRef(customer_id=who, subject_id=subject_id, balance=balance),
        version=version,
        granted=granted,
        used=version,
        scoped=[session.ScopedAmount(feature=name, available=amount) for name, amount in scoped.items()],
    )
    if at is not None:
        message.period_end.FromDatetime(at)
    return message


def listening(held: View) -> Told:
    """All that a view tells, in order."""
    told: Told = []

    def counted(standing: Iterable[Hint], all_through: int, earlier: bool) -> None:
        told.append((tuple((hint, hint.counted_through) for hint in standing), all_through, earlier))

    held.on_customers_changed(lambda ids: told.append(("customers", ids)))
    held.on_balances_changed(lambda hints: told.append(("balances", hints)))
    held.on_counted(counted)
    return told


class RestMachine(RuleBasedStateMachine):
    """The same feed and the same questions for both."""

    @initialize()
    def begin(self) -> None:
        """Both are empty."""
        self.revision = 0
        self.views = (view(in_use_max=1), view(in_use_max=100))
        self.told = tuple(map(listening, self.views))
        self.kept: list[tuple[View, str, Compiled]] = []
        self.publish()

    @rule()
    def publish(self) -> None:
        """There is a new catalog: nobody is compiled for it yet."""
        self.revision += 1
        for held in self.views:
            held.apply(revision=self.revision, catalogs=[catalog(self.revision)], advance=True)

    @rule(
        whom=st.dictionaries(st.sampled_from(WHO), st.booleans(), min_size=1, max_size=3),
        hints=st.lists(said, max_size=3),
        through=numbers,
        at_rest=st.booleans(),
    )
    def states(self, whom: dict[str, bool], hints: list[Said], through: int, at_rest: bool) -> None:
        """New states arrive, some with hints: of somebody who was asked about, or from a snapshot."""
        self.revision += 1
        made = []
        for who, suspended in whom.items():
            state = customer(who, suspended=suspended)
            state.hints.extend(balance_hint(*one) for one in hints if one[0] == who)
            made.append(state)
        for held in self.views:
            held.apply(
                revision=self.revision, customers=made, counted_through=through, at_rest=at_rest, advance=True
            )

    @rule(hints=st.lists(said, min_size=1, max_size=4), through=numbers, in_order=st.booleans())
    def hint(self, hints: list[Said], through: int, in_order: bool) -> None:
        """Hints arrive, of whomever."""
        for held in self.views:
            held.apply_hints(
                [balance_hint(*one) for one in hints], counted_through=through, in_order=in_order
            )

    @rule()
    def start_over(self) -> None:
        """The control plane was restored."""
        for held in self.views:
            held.start_over(2)

    @rule(who=st.sampled_from(WHO), hours=st.integers(0, 2))
    def ask(self, who: str, hours: int) -> None:
        """Both say the same; who asks keeps what follows from it."""
        found = []
        for held in self.views:
            entry = held.customer(who)
            compiled = None if entry is None else held.compiled(entry, NOW + timedelta(hours=hours))
            if compiled is not None:
                assert held.is_current(who, compiled)
                self.kept.append((held, who, compiled))
            found.append(None if compiled is None else compiled.entitlements)
        assert found[0] == found[1]

    @rule(
        who=st.sampled_from(WHO), balance=st.sampled_from(BALANCES), subject_id=st.sampled_from(["", "ann"])
    )
    def look(self, who: str, balance: str, subject_id: str) -> None:
        """A balance stands alike, and what was looked up is found again until it changes."""
        ref = BalanceRef(who, subject_id, balance)
        found = [held.hint(ref) for held in self.views]
        assert found[0] == found[1]
        assert [hint and hint.counted_through for hint in found] == [
            hint and hint.counted_through for hint in found[::-1]
        ]
        assert [held.hint(ref) is hint for held, hint in zip(self.views, found, strict=True)] == [True, True]

    @invariant()
    def both_tell_the_same(self) -> None:
        """To those who listen, and to the snapshot."""
        if not hasattr(self, "views"):
            return
        one, other = self.views
        assert self.told[0] == self.told[1]
        assert _stored(one) == _stored(other)
        assert one.in_use <= 1

    @invariant()
    def what_was_kept_holds_only_while_it_is_true(self) -> None:
        """What is current is what the customer's state comes to now, whoever rested meanwhile."""
        for held, who, compiled in getattr(self, "kept", ()):
            if held.is_current(who, compiled):
                (state,), _ = held.states_of([who], [])
                is_suspended = compiled.entitlements.standing is Reason.CUSTOMER_SUSPENDED
                assert is_suspended == state.suspended
                assert held.current_catalog is not None
                assert compiled.entitlements.catalog_revision == held.current_catalog[0]


def _stored(held: View) -> list[bytes]:
    """What would be written to disk; in which order a customer's hints stand says nothing."""
    found = []
    for state in held.states():
        if isinstance(state, feed.CustomerState):
            hints = sorted(state.hints, key=lambda hint: hint.SerializeToString(deterministic=True))
            state.ClearField("hints")
            state.hints.extend(hints)
        found.append(state.SerializeToString(deterministic=True))
    return found


RestMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None, derandomize=True
)
TestAtRest = RestMachine.TestCase
TestAtRest.__doc__ = "A customer that came to rest is, when it is asked about, as if it had never rested."
