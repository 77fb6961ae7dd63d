"""Random histories of the book: what was leased is somewhere, exactly once, after every step."""

from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.leases.book import REMEMBERED_SECONDS, LeaseBook, Withdrawn
from sidecar.leases.terms import NotCovered, Taken

REFS = [BalanceRef("acme", "", "wallet:usd"), BalanceRef("acme", "", "allowance:chat")]
TTL = 60


class Draw(NamedTuple):
    """As the engine's."""

    ref: BalanceRef
    feature: str
    within: int
    beyond: int


class BookMachine(RuleBasedStateMachine):
    """Installs, takes, gives back, holds, settles, recalls, lets time pass; keeps its own count of every unit."""

    taken = Bundle("taken")
    holds = Bundle("holds")
    withdrawn = Bundle("withdrawn")

    @initialize()
    def begin(self) -> None:
        """An empty book."""
        self.book = LeaseBook()
        self.now = 1000.0
        self.leases = 0
        self.installed = dict.fromkeys(REFS, 0)
        self.allotted = dict.fromkeys(REFS, 0)
        self.charged = dict.fromkeys(REFS, 0)
        self.held = dict.fromkeys(REFS, 0)
        self.returned = dict.fromkeys(REFS, 0)

    @rule(
        ref=st.sampled_from(REFS), within=st.integers(0, 50), beyond=st.integers(0, 20), scoped=st.booleans()
    )
    def install(self, ref: BalanceRef, within: int, beyond: int, scoped: bool) -> None:
        """A lease arrives."""
        self.leases += 1
        self.installed[ref] += 1
        lease = session.Lease(
            lease_id=f"l{self.leases}",
            slices=[
                s
                for s in (
                    session.Slice(grant_id="g", amount=within),
                    session.Slice(grant_id="b", amount=beyond, beyond_limit=True),
                )
                if s.amount
            ],
            scope=["chat"] if scoped else [],
        )
        lease.ttl.FromSeconds(TTL)
        lease.ends_at.FromSeconds(1_000_000 + TTL)
        self.book.install(ref, lease, sent_at=self.now, received_at=self.now, revision=self.leases)
        self.allotted[ref] += within + beyond

    @rule(
        target=taken,
        feature=st.sampled_from(["chat", "image"]),
        amount=st.integers(0, 50),
        refs=st.sets(st.sampled_from(REFS), min_size=1),
    )
    def take(self, feature: str, amount: int, refs: set[BalanceRef]) -> tuple[Taken, ...]:
        """Takes from all or none, inside the limit first, as the engine decides; what funds have shown can be taken."""
        funds = self.book.funds(refs, feature, self.now)
        draws, covers = [], True
        for ref in sorted(refs):
            within, beyond = (funds[ref].within, funds[ref].beyond) if ref in funds else (0, 0)
            covers = covers and within + beyond >= amount
            draws.append(Draw(ref, feature, min(amount, within), max(0, amount - within)))
        try:
            taken = self.book.take(draws, self.now)
        except NotCovered:
            assert not covers
            return ()
        assert covers
        for t in taken:
            self.charged[t.ref] += t.amount
        assert sum(t.amount for t in taken) == amount * len(refs)
        assert sum(t.beyond for t in taken) == sum(draw.beyond for draw in draws)
        return taken

    @rule(taken=consumes(taken))
    def give_back(self, taken: tuple[Taken, ...]) -> None:
        """A write did not happen."""
        self.book.give_back(taken, self.now)
        for t in taken:
            self.charged[t.ref] -= t.amount

    @rule(target=holds, taken=consumes(taken))
    def hold(self, taken: tuple[Taken, ...]) -> tuple[Taken, ...]:
        """A reservation holds it: in a moment, so that no lease of it is forgotten yet."""
        if not all(t.lease_id in self.book._leases for t in taken):
            return ()
        self.book.hold(taken)
        for t in taken:
            self.charged[t.ref] -= t.amount
            self.held[t.ref] += t.amount
        return taken

    @rule(hold=consumes(holds), part=st.integers(0, 100))
    def settle(self, hold: tuple[Taken, ...], part: int) -> None:
        """A part is charged, the rest goes free."""
        for t in hold:
            charged = t.amount * part // 100
            self.book.charge_held(t.lease_id, charged)
            self.book.release_held(t.lease_id, t.amount - charged)
            self.held[t.ref] -= t.amount
            self.charged[t.ref] += charged

    @rule(target=withdrawn, ref=st.sampled_from(REFS), revision=st.integers(0, 50), idle_only=st.booleans())
    def recall(self, ref: BalanceRef, revision: int, idle_only: bool) -> tuple[Withdrawn, ...]:
        """The control plane wants it back."""
        if idle_only:
            return self._returned(self.book.withdraw_idle(ref, self.now))
        return self._returned(self.book.cut(ref, revision))

    @rule(target=withdrawn, ref=st.sampled_from(REFS), amount=st.integers(1, 60))
    def shrink(self, ref: BalanceRef, amount: int) -> tuple[Withdrawn, ...]:
        """Too much lies idle."""
        withdrawn = self._returned(self.book.withdraw(ref, amount))
        assert sum(w.amount for w in withdrawn) <= amount
        return withdrawn

    @rule(target=withdrawn, seconds=st.floats(0, 90), is_cut_off=st.booleans())
    def time_passes(self, seconds: float, is_cut_off: bool) -> tuple[Withdrawn, ...]:
        """Leases end."""
        self.now += seconds
        withdrawn = self._returned(self.book.expire(self.now, is_cut_off=is_cut_off))
        assert not (is_cut_off and withdrawn and seconds == 0)
        return withdrawn

    @rule(target=withdrawn, is_cut_off=st.booleans())
    def an_hour_passes(self, is_cut_off: bool) -> tuple[Withdrawn, ...]:
        """Leases that ended the last time are forgotten, unless they are held."""
        self.now += REMEMBERED_SECONDS + TTL
        return self._returned(self.book.expire(self.now, is_cut_off=is_cut_off))

    @rule(withdrawn=consumes(withdrawn))
    def put_back(self, withdrawn: tuple[Withdrawn, ...]) -> None:
        """The return could not be written."""
        self.book.put_back(withdrawn)
        for w in withdrawn:
            self.returned[w.ref] -= w.amount

    @rule(withdrawn=consumes(withdrawn))
    def written(self, withdrawn: tuple[Withdrawn, ...]) -> None:
        """The return is durable: it stays returned."""
        assert all(w.amount > 0 for w in withdrawn)

    def _returned(self, withdrawn: list[Withdrawn]) -> tuple[Withdrawn, ...]:
        for w in withdrawn:
            self.returned[w.ref] += w.amount
        return tuple(withdrawn)

    @invariant()
    def every_unit_is_somewhere_once(self) -> None:
        """Allotted = free + held + charged + returned, by the machine's own count: never more, and less only where
        a lease was forgotten before something of it came back. Funds never show more than is free.
        """
        self.book.check()
        for ref in REFS:
            leases = [lease for lease in self.book._leases.values() if lease.ref == ref]
            free = sum(lease.free for lease in leases)
            accounted = free + self.held[ref] + self.charged[ref] + self.returned[ref]
            assert accounted <= self.allotted[ref]
            assert accounted == self.allotted[ref] or len(leases) < self.installed[ref]
            assert self.book.held(ref) == self.held[ref]
            for feature in ("chat", "image"):
                fund = self.book.funds([ref], feature, self.now).get(ref)
                if fund is not None:
                    assert fund.within >= 0
                    assert fund.beyond >= 0
                    assert fund.within + fund.beyond <= free


BookMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBook = BookMachine.TestCase
