"""Kept answers: that nothing has changed is seen by a number, and is the same as looking at everything."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from purser.sync.v1 import session_pb2 as session
from sidecar.deciding.grounds import Basis, Grounds
from sidecar.deciding.unreported import Unreported
from sidecar.engine.values import BalanceRef
from sidecar.leases.book import LeaseBook
from sidecar.view.memory import View
from tests.unit.sidecar.view.states import NOW, catalog, customer, view

REF = BalanceRef("acme", "", "allowance:calls")
DOINGS = (
    "ask",
    "hint",
    "state",
    "publish",
    "evict",
    "others",
    "restore",
    "charge",
    "count",
    "inherit",
    "inherited",
    "hold",
    "let go",
    "share",
)


@dataclass
class Side:
    """What checks rest on, and one answer of each moment."""

    view: View = field(default_factory=lambda: view(bound=2, in_use_max=1))
    book: LeaseBook = field(default_factory=LeaseBook)
    unreported: Unreported = field(default_factory=Unreported)
    turn: int = 1

    def do(self, what: str) -> None:
        """Something that happens to it."""
        self.turn += 1
        turn, known = self.turn, self.view
        match what:
            case "ask":
                entry = known.customer("acme")
                if entry is not None:
                    known.compiled(entry, NOW)
            case "hint":
                known.apply_hints(customer(hint=turn).hints, counted_through=0)
            case "state":
                state = customer(suspended=turn % 2 == 0)
                known.apply(revision=turn, customers=[state], advance=True)
            case "publish":
                known.apply(revision=turn, catalogs=[catalog(turn)], advance=True)
            case "evict":
                more = [customer(f"other-{number}") for number in range(2)]
                known.apply(revision=turn, customers=more, advance=True)
            case "others":
                known.apply(revision=turn, customers=[customer("other-0")], advance=True)
            case "restore":
                known.start_over(turn)
            case "charge":
                self.unreported.charged(turn, [(REF, 1)])
            case "count":
                self.unreported.counted({}, turn)
            case "inherit":
                self.unreported.inherit({REF: 1})
            case "inherited":
                self.unreported.inherited_counted()
            case "hold":
                self.book.restore_hold(REF, f"lease-{turn}", 5)
            case "share":
                share = session.RateShare(lease_id="share", tokens=1, micro_per_second=1, burst=1)
                self.book.install_share(REF, share, sent_at=0.0, now=0.0)
            case _:
                for number in range(turn):
                    self.book.release_held(f"lease-{number}", 5)

    def grounds(self) -> Grounds:
        """All of it."""
        return Grounds(self.view, self.book, self.unreported)

    def basis(self, grounds: Grounds) -> Basis | None:
        """Of an answer that is given now."""
        seen = grounds.changes()
        entry = self.view.customer("acme")
        if entry is None:
            return None
        compiled = self.view.compiled(entry, NOW)
        return Basis(
            customer_id="acme",
            compiled=compiled,
            subject_id="",
            subject=None,
            balances=(grounds.stand(REF),),
            until=float("inf"),
            seen=seen,
        )


def looked_at(grounds: Grounds, basis: Basis) -> bool:
    """As where the number tells nothing."""
    again = Basis(
        customer_id=basis.customer_id,
        compiled=basis.compiled,
        subject_id=basis.subject_id,
        subject=basis.subject,
        balances=basis.balances,
        until=basis.until,
        seen=-1,
    )
    return grounds.holds(again, 0.0)


@given(st.lists(st.sampled_from(DOINGS), max_size=30))
def test_an_unchanged_number_is_as_good_as_a_look(doings: list[str]) -> None:
    """Whatever happens: an answer is given again by its number only where a look at all it rests on would let it."""
    side = Side()
    side.view.apply(revision=1, catalogs=[catalog()], customers=[customer(hint=1)], advance=True)
    grounds = side.grounds()
    given_answers: list[Basis] = []
    for what in doings:
        made = side.basis(grounds)
        if made is not None:
            given_answers.append(made)
        side.do(what)
        for one in given_answers:
            assert grounds.holds(one, 0.0) == looked_at(grounds, one)


def test_the_catalog_in_force_is_part_of_it() -> None:
    """A publish that names no customer changes what is given to those who follow the newest."""
    side = Side()
    side.view.apply(revision=1, catalogs=[catalog()], customers=[customer()], advance=True)
    grounds = side.grounds()
    made = side.basis(grounds)
    assert made is not None
    assert grounds.holds(made, 0.0)
    side.do("publish")
    assert not grounds.holds(made, 0.0)
