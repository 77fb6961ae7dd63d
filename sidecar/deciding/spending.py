"""From a bill to what is taken: decide with what the book holds, lease what is missing, decide again, until
it is final.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sidecar.deciding.funds import (
    book_funds,
    held_funds,
    leasable,
    remote_funds,
    sum_funds,
    without_rates,
)
from sidecar.deciding.reserved import Hold, allot
from sidecar.deciding.standings import Standings
from sidecar.deciding.uniques import Uniques
from sidecar.deciding.waivers import Waived, Waivers
from sidecar.deciding.waiving import Waiver, give_back, waive, waive_remote
from sidecar.engine.catalog import OnUnreachable
from sidecar.engine.decide import decide
from sidecar.engine.decision import Standing
from sidecar.engine.entitlement import BalanceSpec
from sidecar.engine.evaluate import Bill, Charge, Draw, Fund, Outcome, Shortfall
from sidecar.engine.values import (
    BalanceKind,
    BalanceRef,
    Event,
    Finding,
    GaugeChange,
    Reason,
)
from sidecar.leases.book import Spending as Book
from sidecar.leases.keeper import Keeper
from sidecar.leases.terms import Acquired, Grade, NotCovered, RemoteFailure, RemoteVerdict, Taken
from sidecar.runtime.clock import Clock, microseconds
from sidecar.view.memory import View

ROUNDS_MAX: Final = 256
"""A bound for a loop that ends by its deadline: in each round one of the calls that wait gets its part."""

_REASONS: Final[Mapping[Grade, Reason]] = {
    Grade.UNREACHABLE: Reason.CONTROL_PLANE_UNREACHABLE,
    Grade.NO_SUCH_BALANCE: Reason.NOT_ENTITLED,
}
"""What a grade makes of the reason that the engine found; the others leave it."""


class Spent(NamedTuple):
    """What was decided, and what was taken for it. A refused one has taken nothing."""

    outcome: Outcome
    taken: tuple[Taken, ...] = ()
    waived: tuple[Waived, ...] = ()
    """What a waiver let through."""
    is_fallback: bool = False
    retry_after: timedelta | None = None
    verdicts: Mapping[BalanceRef, RemoteVerdict] | None = None
    standings: dict[BalanceRef, Standing] | None = None
    """How the balances stood that were looked at. None: nobody has looked."""


@dataclass(frozen=True, slots=True)
class Till:
    """Takes what bills ask for. Thread-safe."""

    view: View
    standings: Standings
    book: Book
    keeper: Keeper
    clock: Clock
    waivers: Waivers
    uniques: Uniques
    now: Callable[[], datetime]
    """The control plane's clock as known."""
    blocking: Callable[[], AbstractContextManager[None]]
    """Around waits for the network."""

    def look(self, bill: Bill, at: datetime) -> Spent:
        """What `spend` would say at `at`, which is now, without taking, leasing or waiting: for a check."""
        now, finish_until = self.clock.monotonic(), self.finish_until(bill)
        with self.book.lock:
            funds = book_funds(self.book, bill, now, finish_until)
        if self.view.pulse.is_connected:
            charges = bill.charges
            standings = self.standings.of(charges, at)
            return Spent(decide(bill, leasable(charges, standings, self.view, funds)), standings=standings)
        outcome = decide(bill, funds)
        if outcome.allowed or not outcome.shortfalls:
            return Spent(outcome)
        waiver = waive(self.waivers.trial(), bill, [short for short in outcome.shortfalls if short.refuses])
        if waiver is not None:
            return Spent(_with_waiver(bill, funds, waiver), is_fallback=True)
        away = {(short.ref, short.feature): Acquired(Grade.UNREACHABLE) for short in outcome.shortfalls}
        return Spent(self._coloured(outcome, away))

    def spend(self, bill: Bill, event: Event, deadline: float) -> Spent:
        """Takes all that the bill asks for, or nothing. `deadline`: monotonic seconds for leasing."""
        if bill.refused is not Reason.OK:
            return Spent(decide(bill, {}))
        remote = _asked_remotely(bill)
        spent = self._local(bill, remote, deadline)
        if not spent.outcome.allowed or not remote:
            return spent
        return self._remote(bill, spent, remote, event, deadline)

    def funds(self, bill: Bill, now: float) -> dict[BalanceRef, Fund]:
        """What may be spent for a bill that has happened. The book's lock is held by the caller."""
        funds = book_funds(self.book, bill, now, self.finish_until(bill))
        funds.update(remote_funds(bill.charges))
        return funds

    def spend_beyond(self, bill: Bill, holds: Sequence[Hold], deadline: float) -> Spent:
        """As `spend`, for a larger estimate: what is held is there already, and is not taken again."""
        if bill.refused is not Reason.OK:
            return Spent(decide(bill, {}))
        bill = without_rates(bill)
        return self._local(bill, _asked_remotely(bill), deadline, holds)

    def guest(self, bill: Bill, *, look: bool) -> Spent:
        """By the default plan, for a customer that nobody knows: limits hold per sidecar and outage, and
        nothing is leased.
        """
        for _ in range(ROUNDS_MAX):
            outcome = decide(bill, self._guest_funds(bill))
            counted: list[Waived] = []
            for draw in () if look else outcome.draws:
                if draw.within and draw.spec.kind is not BalanceKind.RATE:
                    one = self.waivers.take(
                        draw.ref.customer_id, draw.ref.balance, draw.within, draw.spec.limit or 0
                    )
                    if one is None:
                        break  # somebody else was faster: there is less room now
                    counted.append(one)
            else:
                return Spent(outcome, (), tuple(counted), is_fallback=True)
            give_back(self.waivers, counted)
        raise AssertionError("every round but the last leaves less room")

    def _guest_funds(self, bill: Bill) -> dict[BalanceRef, Fund]:
        funds: dict[BalanceRef, Fund] = {}
        for charge in bill.charges:
            limit = charge.spec.burst if charge.spec.kind is BalanceKind.RATE else (charge.spec.limit or 0)
            room = self.waivers.left(charge.ref.customer_id, charge.ref.balance, limit)
            funds[charge.ref] = Fund(room, charge.spec.cap)
        return funds

    def settled(self, spent: Spent) -> None:
        """What was taken is durable: values that were new are not any more."""
        for draw in spent.outcome.draws:
            if draw.value and draw.spec.kind is not BalanceKind.GAUGE:
                self.uniques.counted(draw.ref, self.period_start(draw.spec), draw.value)

    def period_start(self, spec: BalanceSpec) -> int:
        """When the balance's present period began, in microseconds since 1970; 0: it has none."""
        return 0 if spec.period is None else microseconds(spec.period.window(self.now()).start)

    def give_back(self, spent: Spent) -> None:
        """What was taken did not happen."""
        with self.book.lock:
            self.book.give_back(spent.taken, self.clock.monotonic())
        give_back(self.waivers, spent.waived)
        self.keeper.give_up_remote(spent.verdicts or {})

    # Inside

    def _local(
        self, bill: Bill, remote: Sequence[Charge], deadline: float, holds: Sequence[Hold] = ()
    ) -> Spent:
        acquired: dict[tuple[BalanceRef, str], Acquired] = {}
        outcome: Outcome | None = None
        for _ in range(ROUNDS_MAX):
            tried = outcome is not None
            outcome, taken = self._decide_and_take(bill, remote, holds, may_lease=not acquired)
            if taken is not None:
                return Spent(outcome, taken)
            # What was not asked for last time became short meanwhile: it must be asked for before it may refuse.
            last = [acquired.get((short.ref, short.feature)) for short in outcome.shortfalls]
            hopeless = all(got is not None and got.grade is not Grade.GRANTED for got in last)
            if not outcome.shortfalls or (tried and hopeless):
                break
            with self.blocking():
                acquired = dict(self.keeper.acquire(outcome.shortfalls, deadline))
        assert outcome is not None, "there is at least one round"
        return self._short(bill, remote, holds, outcome, acquired)

    def _decide_and_take(
        self, bill: Bill, remote: Sequence[Charge], holds: Sequence[Hold], *, may_lease: bool
    ) -> tuple[Outcome, tuple[Taken, ...] | None]:
        now, finish_until = self.clock.monotonic(), self.finish_until(bill)
        with self.book.lock:
            funds = book_funds(self.book, bill, now, finish_until)
            if holds:
                funds = sum_funds(held_funds(holds), funds)
            if remote:
                funds.update(remote_funds(remote))
            outcome = decide(bill, funds)
            # What passes uncovered is leased first, if it can be.
            if not outcome.allowed or (outcome.shortfalls and may_lease):
                return outcome, None
            draws = leased(outcome.draws) if remote else outcome.draws
            try:
                wanted = allot(holds, draws).missing if holds else draws
                return outcome, self.book.take(wanted, now, finish_until)
            except NotCovered:
                # Scopes that overlap: what each feature may spend alone is not there for both.
                return decide(bill, remote_funds(remote)), None

    def _short(
        self,
        bill: Bill,
        remote: Sequence[Charge],
        holds: Sequence[Hold],
        outcome: Outcome,
        acquired: Mapping[tuple[BalanceRef, str], Acquired],
    ) -> Spent:
        """It stays short: the trouble policy's word where the control plane was away, else a refusal."""
        refusing = [short for short in outcome.shortfalls if short.refuses]
        graded = [acquired.get((short.ref, short.feature), _NOTHING) for short in refusing]
        away = [short for short, got in zip(refusing, graded, strict=True) if got.grade is Grade.UNREACHABLE]
        if away and len(away) == len(refusing):
            waived = self._waive(bill, remote, away)
            if waived is not None:
                return waived
        seconds = [got.retry_after_seconds for got in graded if got.retry_after_seconds is not None]
        retry_after = timedelta(seconds=max(seconds)) if seconds else None
        final = {
            short.ref for short, got in zip(refusing, graded, strict=True) if got.grade is Grade.EXHAUSTED
        }
        if final:
            outcome = self._as_shown(bill, remote, holds, outcome, final)
            retry_after = None  # what else is short may mend itself; this does not
        return Spent(self._coloured(outcome, acquired), retry_after=retry_after)

    def _as_shown(
        self,
        bill: Bill,
        remote: Sequence[Charge],
        holds: Sequence[Hold],
        refused: Outcome,
        final: set[BalanceRef],
    ) -> Outcome:
        """What the control plane has refused, in the words of a check: with what is left of the whole of the balances
        `final`, which is more than what happens to be leased here.
        """
        now, finish_until = self.clock.monotonic(), self.finish_until(bill)
        with self.book.lock:
            here = book_funds(self.book, bill, now, finish_until)
        charges = bill.charges
        shown = leasable(charges, self.standings.of(charges, self.now()), self.view, here)
        funds = sum_funds(held_funds(holds), shown) | remote_funds(remote)
        as_here = {short.ref for short in refused.shortfalls} - final
        as_here |= {c.ref for c in charges if c.spec.kind is BalanceKind.RATE}
        funds |= {ref: here.get(ref, Fund(0)) for ref in as_here}
        outcome = decide(bill, funds)
        # What is shown may lag behind: then the refusal stands as it was found here.
        return refused if outcome.allowed or outcome.reason is not refused.reason else outcome

    def _waive(self, bill: Bill, remote: Sequence[Charge], away: Sequence[Shortfall]) -> Spent | None:
        """Lets through what the features' policies waive, as not covered; None: they do not."""
        waiver = waive(self.waivers, bill, away)
        if waiver is None:
            return None
        now, finish_until = self.clock.monotonic(), self.finish_until(bill)
        with self.book.lock:
            funds = book_funds(self.book, bill, now, finish_until) | remote_funds(remote)
            outcome = _with_waiver(bill, funds, waiver)
            if outcome.allowed:
                try:
                    taken = self.book.take(leased(outcome.draws), now, finish_until)
                    return Spent(outcome, taken, waiver.counted, is_fallback=True)
                except NotCovered:
                    pass
        give_back(self.waivers, waiver.counted)
        return None

    def _remote(
        self, bill: Bill, spent: Spent, remote: Sequence[Charge], event: Event, deadline: float
    ) -> Spent:
        """Asks the control plane for its verdicts, after everything else was taken."""
        verdicts: dict[BalanceRef, RemoteVerdict] = {}
        for charge in remote:
            try:
                with self.blocking():
                    answer = self._verdict(charge, event, deadline)
            except BaseException:  # too many wait already
                self.give_back(spent._replace(verdicts=verdicts))
                raise
            if isinstance(answer, RemoteVerdict) and answer.allowed:
                verdicts[charge.ref] = answer
                continue
            waived = None
            if isinstance(answer, RemoteFailure) and answer.grade is Grade.UNREACHABLE:
                adds = event.gauge_change not in {GaugeChange.SET, GaugeChange.REMOVE}
                waived = waive_remote(self.waivers, bill, charge, adds=adds)
            if waived is not None:
                counted, finding = waived
                outcome = replace(
                    spent.outcome, reason=Reason.OK_FALLBACK, findings=(*spent.outcome.findings, finding)
                )
                spent = spent._replace(outcome=outcome, waived=(*spent.waived, counted), is_fallback=True)
                continue
            self.give_back(spent._replace(verdicts=verdicts))
            funds = remote_funds(remote) | {charge.ref: Fund(0)}
            funds |= {ref: Fund(2**62, 2**62) for ref in bill.refs if ref not in funds}
            outcome = decide(bill, funds)
            if isinstance(answer, RemoteFailure):
                outcome = self._coloured(outcome, {(charge.ref, charge.feature): Acquired(answer.grade)})
            else:
                verdicts[charge.ref] = answer
            return Spent(outcome, verdicts=verdicts)
        return spent._replace(verdicts=verdicts)

    def _verdict(self, charge: Charge, event: Event, deadline: float) -> RemoteVerdict | RemoteFailure:
        return self.keeper.decide_remote(
            charge.ref,
            needed=0 if event.gauge_change is GaugeChange.REMOVE else charge.quantity,
            holder_id=event.holder_id,
            adds=event.gauge_change is GaugeChange.ADD,
            occurred_at=event.occurred_at,
            idempotency_key=event.idempotency_key,
            deadline=deadline,
        )

    def _coloured(self, outcome: Outcome, acquired: Mapping[tuple[BalanceRef, str], Acquired]) -> Outcome:
        """The refusal with what the control plane, or its absence, says of each balance."""
        words = {
            ref.balance: got for (ref, _), got in acquired.items() if got.grade in _REASONS or got.message
        }
        if not words or outcome.allowed:
            return outcome
        findings: list[Finding] = []
        for finding in outcome.findings:
            got = words.get(finding.about)
            if got is None or finding.step != "balance" or not finding.reason.refuses:
                findings.append(finding)
                continue
            text = got.message or _GRADE_TEXTS.get(got.grade, "")
            said = f"{finding.finding}; {text}" if text else finding.finding
            findings.append(finding._replace(finding=said, reason=_REASONS.get(got.grade, finding.reason)))
        refusing = [finding.reason for finding in findings if finding.reason.refuses]
        return replace(outcome, findings=tuple(findings), reason=min(refusing, default=outcome.reason))

    def finish_until(self, bill: Bill) -> float | None:
        """Until when slices may be spent beyond their lease's end: only while cut off, and where the
        features say so.
        """
        pulse = self.view.pulse
        if pulse.is_connected or pulse.confirmed_at is None:
            return None
        troubles = [line.entitlement.trouble for line in bill.features]
        if not troubles or any(t.on_unreachable is OnUnreachable.DENY for t in troubles):
            return None
        return pulse.confirmed_at + min(t.max_staleness for t in troubles).total_seconds()


_NOTHING: Final = Acquired(Grade.EXHAUSTED)

_GRADE_TEXTS: Final[Mapping[Grade, str]] = {
    Grade.UNREACHABLE: "the control plane can not be asked for more",
    Grade.HELD_BY_OTHERS: "others hold leases, which were recalled",
}


def _asked_remotely(bill: Bill) -> list[Charge]:
    """What only the control plane decides; what has no limit needs no decision."""
    return [charge for charge in bill.charges if charge.spec.decided_remotely and not charge.spec.unlimited]


def leased(draws: Sequence[Draw]) -> tuple[Draw, ...]:
    """What the book is asked for: not what only the control plane decides."""
    return tuple(draw for draw in draws if not draw.spec.decided_remotely)


def _uncover(draw: Draw, held: int) -> Draw:
    covered = min(draw.within, held)
    return replace(draw, within=covered, uncovered=draw.uncovered + draw.within - covered)


def _with_waiver(bill: Bill, funds: Mapping[BalanceRef, Fund], waiver: Waiver) -> Outcome:
    """What is decided with what was waived on top; that part of the draws is not covered."""
    wider = dict(funds)
    for ref, amount in waiver.extra.items():
        fund = wider.get(ref, Fund(0))
        wider[ref] = replace(fund, within=fund.within + amount)
    outcome = decide(bill, wider)
    draws = tuple(
        _uncover(draw, funds.get(draw.ref, Fund(0)).within)
        if draw.ref in waiver.extra and not draw.spec.decided_remotely
        else draw
        for draw in outcome.draws
    )
    if not outcome.allowed:
        return outcome
    return replace(
        outcome, draws=draws, reason=Reason.OK_FALLBACK, findings=(*outcome.findings, *waiver.findings)
    )
