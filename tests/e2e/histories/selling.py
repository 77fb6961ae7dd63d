"""Was ever more allowed than there was? By what callers heard, moment by moment."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from tests.e2e.histories.history import Account, Call, Granted, Told, Verb


class Step(NamedTuple):
    """What is surely decided of a balance changes; what was given comes first."""

    at: float
    customer_id: str
    amount: Decimal


def oversold_as_told(
    calls: Sequence[Call], accounts: Mapping[str, Account], grants: Sequence[Granted]
) -> Iterator[str]:
    """Decided usage and holds, as far as callers were told of them, against what had been granted by then."""
    given = {account.customer_id: account.limit for account in accounts.values()}
    steps = [*_consumed(calls, accounts), *_held(calls, accounts)]
    steps += [Step(one.asked_at, one.customer_id, -one.amount) for one in grants]
    decided: defaultdict[str, Decimal] = defaultdict(Decimal)
    for at, customer_id, amount in sorted(steps, key=lambda step: (step.at, step.amount)):
        decided[customer_id] += amount
        if decided[customer_id] > given[customer_id]:
            over = decided[customer_id] - given[customer_id]
            balance = accounts[customer_id].balance
            yield f"oversold: at {at:.3f} {customer_id} was allowed {over} more than its {balance} had"
            given[customer_id] += over  # said once, not again at every step


def _consumed(calls: Iterable[Call], accounts: Mapping[str, Account]) -> Iterator[Step]:
    """Each key from when it was first accepted."""
    seen: set[str] = set()
    accepted = [call for call in calls if call.asked.verb is Verb.CONSUME and call.told is Told.ACCEPTED]
    for call in sorted(accepted, key=_told_at):
        if call.asked.key not in seen:
            seen.add(call.asked.key)
            yield Step(_told_at(call), call.asked.customer_id, _amount(call, accounts))


def _held(calls: Iterable[Call], accounts: Mapping[str, Account]) -> Iterator[Step]:
    """Reservations: the estimate while it surely holds, then what their leases paid of what was used."""
    by_key: defaultdict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.asked.verb in {Verb.RESERVE, Verb.EXTEND, Verb.SETTLE, Verb.RELEASE}:
            by_key[call.asked.key].append(call)
    for several in by_key.values():
        yield from _held_by(several, accounts)


def _held_by(calls: Sequence[Call], accounts: Mapping[str, Account]) -> Iterator[Step]:
    reserves = [call for call in calls if call.asked.verb is Verb.RESERVE]
    ends_at = min(call.asked_at + call.asked.ttl_seconds for call in reserves)
    ends_at = min([ends_at, *(call.asked_at for call in calls if _may_end(call))])
    held, customer_id = Decimal(0), calls[0].asked.customer_id
    for call in calls:
        is_more = call.asked.verb in {Verb.RESERVE, Verb.EXTEND} and call.told is Told.ACCEPTED
        amount = _amount(call, accounts)
        if is_more and amount > held and _told_at(call) < ends_at:
            yield Step(_told_at(call), customer_id, amount - held)
            held = amount
    if held:
        yield Step(ends_at, customer_id, -held)
    finals = [call for call in calls if call.asked.is_final and call.told is Told.ACCEPTED]
    if finals:
        first = min(finals, key=_told_at)
        yield Step(_told_at(first), customer_id, first.answer.covered)


def _may_end(call: Call) -> bool:
    return call.asked.verb is Verb.RELEASE or call.asked.is_final


def _amount(call: Call, accounts: Mapping[str, Account]) -> Decimal:
    return call.asked.points * accounts[call.asked.customer_id].price


def _told_at(call: Call) -> float:
    assert call.told_at is not None, "what was accepted was heard at some time"
    return call.told_at
