"""What is asked of the control plane: who waits for what, and the requests that are on their way."""

from collections.abc import Iterable
from random import Random
from typing import Final

from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.leases import sizing
from sidecar.leases.book import LeaseBook
from sidecar.leases.remembered import RememberedRefusals
from sidecar.leases.requests import Request, Ticket, Wanted, wire_ref
from sidecar.leases.terms import Acquired, Grade

CALL_SECONDS: Final = 2.0
MIN_CALL_SECONDS: Final = 0.05

Wish = tuple[Wanted, session.Want]


class Asking:
    """Tickets and requests, one in flight per balance. Guarded by the keeper's lock."""

    def __init__(self, book: LeaseBook, refusals: RememberedRefusals, random: Random) -> None:
        """Nobody waits, nothing is asked for."""
        self._book = book
        self._refusals = refusals
        self._random = random
        self._tickets: dict[BalanceRef, list[Ticket]] = {}
        self._next_asked: dict[BalanceRef, float] = {}
        self.in_flight: dict[BalanceRef, Request] = {}
        self.requests: dict[str, Request] = {}

    @property
    def busy(self) -> set[BalanceRef]:
        """Balances that somebody waits for, or that are asked for."""
        return set(self._tickets) | set(self.in_flight)

    @property
    def is_busy(self) -> bool:
        """Does somebody wait, or is something asked for?"""
        return bool(self._tickets or self.requests)

    def wait_for(self, ticket: Ticket) -> None:
        """One call waits for one balance."""
        self._tickets.setdefault(ticket.ref, []).append(ticket)

    def answer(self, ref: BalanceRef, acquired: Acquired) -> None:
        """Everybody who waits for a balance is told."""
        for ticket in self._tickets.pop(ref, []):
            ticket.waiter.answer((ref, ticket.feature), acquired)

    def answered(self, want: Wanted, acquired: Acquired) -> None:
        """What one want got. What came may help everybody; a refusal is for those that it was asked for, and
        whoever came later, or for another feature, is asked for next.
        """
        if acquired.grade in {Grade.GRANTED, Grade.NO_SUCH_BALANCE}:
            self.answer(want.ref, acquired)
            return
        left: list[Ticket] = []
        for ticket in self._tickets.pop(want.ref, []):
            if ticket.is_asked:
                ticket.waiter.answer((want.ref, ticket.feature), acquired)
            else:
                left.append(ticket)
        if left:
            self._tickets[want.ref] = left

    def answer_all(self, acquired: Acquired) -> None:
        """Everybody who waits is told."""
        for ref in list(self._tickets):
            self.answer(ref, acquired)

    def begin(self, request: Request) -> None:
        """It goes out now."""
        self.requests[request.message.request_id] = request
        self.in_flight.update((want.ref, request) for want in request.wanted)

    def done(self, request: Request) -> None:
        """It was answered, or given up."""
        self.requests.pop(request.message.request_id, None)
        for want in request.wanted:
            if self.in_flight.get(want.ref) is request:
                del self.in_flight[want.ref]

    def clear(self) -> None:
        """Requests of an earlier incarnation are nobody's; those who wait go on waiting."""
        self.requests.clear()
        self.in_flight.clear()

    def tidy(self, now: float) -> None:
        """Forgets those who do not wait any more."""
        for ref in list(self._tickets):
            waiting = [ticket for ticket in self._tickets[ref] if now < ticket.deadline]
            if waiting:
                self._tickets[ref] = waiting
            else:
                del self._tickets[ref]

    def wishes(self, demands: sizing.Demands, now: float) -> tuple[list[Wish], float]:
        """What to ask for now, and how many seconds the answer may take: for callers first, then ahead of them.
        One want per balance that has nothing in flight. The book's lock is held.
        """
        found, deadline = self._for_callers(now)
        asked = {wanted.ref for wanted, _ in found} | set(self.in_flight)
        found += self._ahead(demands, now, asked)
        if deadline is None:
            return found, CALL_SECONDS
        return found, min(CALL_SECONDS, max(MIN_CALL_SECONDS, deadline - now))

    def _for_callers(self, now: float) -> tuple[list[Wish], float | None]:
        found: list[Wish] = []
        deadline: float | None = None
        for ref, all_tickets in self._tickets.items():
            tickets = [ticket for ticket in all_tickets if now < ticket.deadline]
            if ref in self.in_flight or not tickets:
                continue
            deadline = max(deadline or now, *(ticket.deadline for ticket in tickets))
            feature = sizing.demand_key(ref, tickets[0].feature)
            for ticket in tickets:
                ticket.is_asked = sizing.demand_key(ref, ticket.feature) == feature
            same = [ticket for ticket in tickets if ticket.is_asked]
            free = self._book.free(ref, feature, now)
            # What is refused to the smallest call is refused to all, and none is refused because of the others.
            need = min(ticket.lacks(free) for ticket in same)
            ahead = self._book.demand(ref, feature, now).amount(need=need, free=free, now=now)
            amount = max(ahead, need, sum(ticket.needed for ticket in same) - free)
            found.append(_wish(Wanted(ref, feature, need, next_period=False), amount))
        return found, deadline

    def _ahead(self, demands: sizing.Demands, now: float, asked: set[BalanceRef]) -> Iterable[Wish]:
        found: list[Wish] = []
        for ref, feature, amount in sizing.renewals(self._book, demands, now, asked=asked):
            if not self._refusals.is_scarce(ref, feature, now):
                found.append(_wish(Wanted(ref, feature, 0, next_period=False), amount))
                asked.add(ref)
        for ref, feature, amount in sizing.next_periods(
            self._book, demands, now, asked=asked, known=self._next_asked, random=self._random
        ):
            found.append(_wish(Wanted(ref, feature, 0, next_period=True), amount))
        return found


def _wish(wanted: Wanted, amount: int) -> Wish:
    return wanted, session.Want(
        ref=wire_ref(wanted.ref),
        feature=wanted.feature,
        need=wanted.need,
        amount=amount,
        next_period=wanted.next_period,
    )
