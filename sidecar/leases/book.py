"""The book of leases: what this incarnation may spend. A state machine without I/O or a clock of its own."""

import heapq
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from purser.sync.v1 import session_pb2 as session
from sidecar.engine.evaluate import Fund
from sidecar.engine.values import BalanceRef
from sidecar.leases.demand import Demand
from sidecar.leases.held import DRIFT, HeldLease
from sidecar.leases.share import Share
from sidecar.leases.terms import Draw, NotCovered, Taken

REMEMBERED_SECONDS: Final = 3600.0
"""How long an ended lease is known, for what is given back late."""
LATELY_SECONDS: Final = 120.0
"""By then the books have what an ended lease was charged and what came back of it."""


class Spending(Protocol):
    """The half of the book that decisions use. `now` is the clock's monotonic seconds.

    The caller holds `lock` around funds, deciding and taking, and around every other call here. Nothing blocks.
    """

    lock: threading.Lock
    changes: int
    """Another number whenever `held` or `has_share` would say something else, but for a share that has ended. Read
    without the lock.
    """

    def funds(
        self, refs: Iterable[BalanceRef], feature: str, now: float, finish_until: float | None = None
    ) -> Mapping[BalanceRef, Fund]:
        """What `feature` may spend of each balance; one without leases is not in the answer.

        `finish_until`: given while cut off under `finish_lease`; until then slices are spent beyond their lease's end.
        """

    def take(self, draws: Sequence[Draw], now: float, finish_until: float | None = None) -> tuple[Taken, ...]:
        """Takes `within + beyond` of every draw, from all or none. Raises NotCovered and has taken nothing."""

    def give_back(self, taken: Iterable[Taken], now: float) -> None:
        """Undoes a take whose write did not happen."""

    def hold(self, taken: Iterable[Taken]) -> None:
        """What was taken is now held by a reservation instead of charged. Rates are passed over."""

    def charge_held(self, lease_id: str, amount: int) -> None:
        """A settle charges this much of what is held."""

    def release_held(self, lease_id: str, amount: int) -> None:
        """A hold ends without charge: free again here, or given back if its lease has ended."""

    def held(self, ref: BalanceRef) -> int:
        """What open reservations hold of a balance, earlier incarnations' leases included."""

    def has_share(self, ref: BalanceRef) -> bool:
        """Is there a share of a rate, or was there one a moment ago?"""


class Withdrawn(NamedTuple):
    """An amount that was free and is now on its way back to the control plane."""

    ref: BalanceRef
    lease_id: str
    amount: int


class _Account:
    """Everything of one balance: leases in the order they came, which is burn order as of then."""

    __slots__ = ("demands", "held", "is_rate", "is_wallet", "leases", "shares")

    def __init__(self, ref: BalanceRef) -> None:
        self.is_rate = ref.balance.startswith("rate:")
        self.is_wallet = ref.balance.startswith("wallet:")
        self.leases: list[HeldLease] = []
        self.shares: list[Share] = []
        self.demands: dict[str, Demand] = {}
        self.held = 0


class LeaseBook:
    """Satisfies `Spending`; the keeper's half stands below it. Every call needs `lock`, which the caller holds."""

    def __init__(self) -> None:
        """An empty book: a process starts with nothing to spend."""
        self.lock = threading.Lock()
        self._accounts: dict[BalanceRef, _Account] = {}
        self._leases: dict[str, HeldLease] = {}
        self._known: dict[BalanceRef, dict[str, HeldLease]] = {}
        self._earlier: dict[str, tuple[BalanceRef, int]] = {}
        self._ends: list[tuple[float, str]] = []
        self._overdue: set[str] = set()
        self.changes = 0

    def funds(
        self, refs: Iterable[BalanceRef], feature: str, now: float, finish_until: float | None = None
    ) -> dict[BalanceRef, Fund]:
        """See `Spending`."""
        accounts = self._accounts
        found = {}
        for ref in refs:
            account = accounts.get(ref)
            if account is None:
                continue
            within = total = 0
            if account.is_rate:
                if not any(now < share.ends_at for share in account.shares):
                    continue
                for share in account.shares:
                    within += share.available(now)
                total = within
            else:
                for lease in account.leases:
                    if (
                        lease.free
                        and lease.is_spendable(now, finish_until)
                        and (not lease.scope or feature in lease.scope)
                    ):
                        total += lease.free
                        within += lease.free_within()
            found[ref] = Fund(within, total - within)
        return found

    def take(self, draws: Sequence[Draw], now: float, finish_until: float | None = None) -> tuple[Taken, ...]:
        """See `Spending`."""
        taken: list[Taken] = []
        for draw in draws:
            wanted = draw.within + draw.beyond
            if not wanted:
                continue
            account = self._accounts.get(draw.ref)
            left = wanted
            if account is not None:
                if account.is_rate:
                    left = _take_tokens(account, draw, now, taken)
                else:
                    left = _take_amounts(account, draw, now, finish_until, taken)
            if left or account is None:
                self.give_back(taken, now)
                raise NotCovered(draw.ref)
            _demand(account, draw.feature, now).took(wanted)
        return tuple(taken)

    def give_back(self, taken: Iterable[Taken], now: float) -> None:
        """See `Spending`."""
        for t in taken:
            account = self._accounts.get(t.ref)
            if (
                account is not None
                and (demand := account.demands.get(_feature(account, t.feature))) is not None
            ):
                demand.took(-t.amount)
            if t.is_rate:
                shares = () if account is None else account.shares
                for share in shares:
                    if share.lease_id == t.lease_id:
                        share.give_back(t.amount)
                continue
            lease = self._leases.get(t.lease_id)
            if lease is not None:
                lease.charged -= t.amount
                self._freed(lease, t.amount)

    def _freed(self, lease: HeldLease, amount: int) -> None:
        lease.free += amount
        lease.check()
        if not self._is_listed(lease):
            self._overdue.add(lease.lease_id)

    def _is_listed(self, lease: HeldLease) -> bool:
        account = self._accounts.get(lease.ref)
        return account is not None and lease in account.leases

    def hold(self, taken: Iterable[Taken]) -> None:
        """See `Spending`."""
        for t in taken:
            lease = self._leases.get(t.lease_id)
            if lease is not None and not t.is_rate:
                lease.charged -= t.amount
                lease.held += t.amount
                lease.check()
                self._held_more(t.ref, t.amount)

    def charge_held(self, lease_id: str, amount: int) -> None:
        """See `Spending`."""
        lease = self._leases.get(lease_id)
        if lease is None:
            self._forget_earlier(lease_id, amount)
            return
        lease.held -= amount
        lease.charged += amount
        lease.check()
        self._held_more(lease.ref, -amount)

    def release_held(self, lease_id: str, amount: int) -> None:
        """See `Spending`."""
        lease = self._leases.get(lease_id)
        if lease is None:
            self._forget_earlier(lease_id, amount)
            return
        lease.held -= amount
        self._held_more(lease.ref, -amount)
        self._freed(lease, amount)

    def held(self, ref: BalanceRef) -> int:
        """See `Spending`."""
        account = self._accounts.get(ref)
        return 0 if account is None else account.held

    def has_share(self, ref: BalanceRef) -> bool:
        """See `Spending`."""
        account = self._accounts.get(ref)
        return account is not None and bool(account.shares)

    def restore_hold(self, ref: BalanceRef, lease_id: str, amount: int) -> None:
        """A reservation of an earlier incarnation goes on: its hold is known, its lease is never spent."""
        _, before = self._earlier.get(lease_id, (ref, 0))
        self._earlier[lease_id] = (ref, before + amount)
        self._held_more(ref, amount)

    def _held_more(self, ref: BalanceRef, amount: int) -> None:
        self._account(ref).held += amount
        self.changes += 1

    def _forget_earlier(self, lease_id: str, amount: int) -> None:
        found = self._earlier.get(lease_id)
        if found is None:
            return
        ref, held = found
        left = max(0, held - amount)
        self._held_more(ref, left - held)
        if left:
            self._earlier[lease_id] = (ref, left)
        else:
            del self._earlier[lease_id]

    # The keeper's half.

    def install(
        self, ref: BalanceRef, lease: session.Lease, *, sent_at: float, received_at: float, revision: int
    ) -> HeldLease:
        """Adds a lease that the outbox holds already; one that is known stays as it is."""
        known = self._leases.get(lease.lease_id)
        if known is not None:
            return known
        held = HeldLease(ref, lease, sent_at=sent_at, received_at=received_at, revision=revision)
        self._leases[held.lease_id] = held
        self._known.setdefault(ref, {})[held.lease_id] = held
        self._account(ref).leases.append(held)
        heapq.heappush(self._ends, (held.ends_at, held.lease_id))
        return held

    def install_share(self, ref: BalanceRef, share: session.RateShare, *, sent_at: float, now: float) -> None:
        """Adds a share of a rate, or prolongs it."""
        account = self._account(ref)
        ends_at = sent_at + (share.ttl.seconds + share.ttl.nanos / 1e9) * (1 - DRIFT)
        pace = {"tokens": share.tokens, "micro_per_second": share.micro_per_second, "burst": share.burst}
        account.shares = [known for known in account.shares if known.ends_at > now]
        for known in account.shares:
            if known.lease_id == share.lease_id:
                known.prolong(**pace, now=now, ends_at=ends_at)
                return
        account.shares.append(Share(share.lease_id, **pace, now=now, ends_at=ends_at))
        self.changes += 1

    def expire(self, now: float, *, is_cut_off: bool) -> list[Withdrawn]:
        """What is free in leases that have ended, withdrawn. While cut off it stays until its grants end, for
        `finish_lease`.
        """
        while self._ends and self._ends[0][0] <= now:
            _, lease_id = heapq.heappop(self._ends)
            if lease_id in self._leases:
                self._overdue.add(lease_id)
        withdrawn = []
        for lease_id in list(self._overdue):
            lease = self._leases[lease_id]
            if is_cut_off and now < lease.never_after:
                continue
            self._overdue.discard(lease_id)
            if lease.free:
                withdrawn.append(self._withdraw(lease, lease.free))
            self._unlist(lease, now)
        return withdrawn

    def _unlist(self, lease: HeldLease, now: float) -> None:
        """An ended lease is spent no more. It is known for a while, for what comes back late, and as long as
        it is held.
        """
        account = self._account(lease.ref)
        if lease in account.leases:
            account.leases.remove(lease)
            self._drop_if_idle(lease.ref)
        elif not lease.held and now >= lease.ends_at + REMEMBERED_SECONDS:
            del self._leases[lease.lease_id]
            of_balance = self._known[lease.ref]
            del of_balance[lease.lease_id]
            if not of_balance:
                del self._known[lease.ref]
            self._drop_if_idle(lease.ref)
            return
        heapq.heappush(self._ends, (now + REMEMBERED_SECONDS, lease.lease_id))

    def _drop_if_idle(self, ref: BalanceRef) -> None:
        account = self._accounts[ref]
        if not (account.leases or account.shares or account.demands or account.held):
            del self._accounts[ref]

    def cut(self, ref: BalanceRef, revision: int) -> list[Withdrawn]:
        """What is neither spent nor held in leases from before `revision`, withdrawn. A share of a rate ends."""
        account = self._accounts.get(ref)
        if account is None:
            return []
        account.shares.clear()
        return [
            self._withdraw(lease, lease.free)
            for lease in account.leases
            if lease.free and lease.revision < revision
        ]

    def withdraw_idle(self, ref: BalanceRef, now: float) -> list[Withdrawn]:
        """What is neither spent nor held, but for leases that have just come."""
        account = self._accounts.get(ref)
        leases = [] if account is None else account.leases
        return [
            self._withdraw(lease, lease.free) for lease in leases if lease.free and not lease.is_fresh(now)
        ]

    def settled_in(self, ref: BalanceRef, now: float) -> tuple[str, ...]:
        """The leases of a balance that are known and not fresh: those that end, or ended lately, or are held."""
        return tuple(
            lease.lease_id
            for lease in self._known.get(ref, {}).values()
            if not lease.is_fresh(now) and (lease.held or now < lease.ends_at + LATELY_SECONDS)
        )

    def is_fresh(self, ref: BalanceRef, now: float) -> bool:
        """Has a lease of this balance just come?"""
        account = self._accounts.get(ref)
        return account is not None and any(lease.is_fresh(now) for lease in account.leases)

    def withdraw(self, ref: BalanceRef, amount: int) -> list[Withdrawn]:
        """Takes at most `amount` of what is free out of the book, from the newest lease on."""
        account = self._accounts.get(ref)
        withdrawn = []
        for lease in reversed(account.leases if account is not None else []):
            part = min(amount, lease.free)
            if part > 0:
                withdrawn.append(self._withdraw(lease, part))
                amount -= part
        return withdrawn

    def withdraw_everything(self) -> list[Withdrawn]:
        """All that is neither spent nor held: a process that stops gives back what nobody can use any more."""
        return [self._withdraw(lease, lease.free) for lease in self._leases.values() if lease.free]

    def _withdraw(self, lease: HeldLease, amount: int) -> Withdrawn:
        lease.free -= amount
        lease.returned += amount
        lease.check()
        return Withdrawn(lease.ref, lease.lease_id, amount)

    def put_back(self, withdrawn: Iterable[Withdrawn]) -> None:
        """What could not be written as returned is free again; where its lease has ended it will be withdrawn again."""
        for w in withdrawn:
            lease = self._leases.get(w.lease_id)
            if lease is not None:
                lease.returned -= w.amount
                self._freed(lease, w.amount)

    def free(self, ref: BalanceRef, feature: str, now: float, ahead: float = 0.0) -> int:
        """What `feature` may spend of a balance, for sizing: leases that end within `ahead` seconds, or within a
        third of their life where that is less, do not count.
        """
        account = self._accounts.get(ref)
        if account is None:
            return 0
        tokens = sum(share.available(now) for share in account.shares if share.ends_at > now + ahead)
        return tokens + sum(
            lease.free
            for lease in account.leases
            if lease.begins_at <= now < lease.ends_at - min(ahead, lease.life_seconds / 3)
            and (not lease.scope or feature in lease.scope)
        )

    def demand(self, ref: BalanceRef, feature: str, now: float) -> Demand:
        """The demand of one feature on one balance."""
        return _demand(self._account(ref), feature, now)

    def demands(self) -> list[tuple[BalanceRef, str, Demand]]:
        """All demands that are known; features are empty but for wallets."""
        return [
            (ref, feature, d)
            for ref, account in self._accounts.items()
            for feature, d in account.demands.items()
        ]

    def forget_demand(self, ref: BalanceRef, feature: str) -> None:
        """Nobody asks for it any more."""
        account = self._accounts.get(ref)
        if account is not None:
            account.demands.pop(feature, None)
            self._drop_if_idle(ref)

    def period_end(self, ref: BalanceRef, now: float) -> float | None:
        """When the period or grants of what is spendable now end. None: they do not, or the next period's are
        here already.
        """
        account = self._accounts.get(ref)
        leases = [] if account is None else account.leases
        if any(lease.begins_at > now for lease in leases):
            return None
        ends = [lease.never_after for lease in leases if now < lease.ends_at]
        return max(ends) if ends and max(ends) != float("inf") else None

    @property
    def is_idle(self) -> bool:
        """Is nothing leased or shared that could be spent, asked for lately, or still to be given back?"""
        return not (self._accounts or self._overdue)

    def lease_count(self) -> int:
        """How many leases are known, ended ones included."""
        return len(self._leases)

    def clear(self) -> None:
        """Everything is an earlier incarnation's now: nothing of it is spent, or given back; holds go on."""
        holds = [(lease.ref, lease.lease_id, lease.held) for lease in self._leases.values() if lease.held]
        holds += [(ref, lease_id, held) for lease_id, (ref, held) in self._earlier.items()]
        self._accounts.clear()
        self._earlier.clear()
        self._leases.clear()
        self._known.clear()
        self._ends.clear()
        self._overdue.clear()
        for ref, lease_id, held in holds:
            self.restore_hold(ref, lease_id, held)

    def check(self) -> None:
        """Asserts the equation of every lease."""
        for lease in self._leases.values():
            lease.check()

    def _account(self, ref: BalanceRef) -> _Account:
        account = self._accounts.get(ref)
        if account is None:
            account = self._accounts[ref] = _Account(ref)
        return account


def _feature(account: _Account, feature: str) -> str:
    return feature if account.is_wallet else ""


def _demand(account: _Account, feature: str, now: float) -> Demand:
    name = feature if account.is_wallet else ""
    demand = account.demands.get(name)
    if demand is None:
        demand = account.demands[name] = Demand(now)
    return demand


def _take_tokens(account: _Account, draw: Draw, now: float, taken: list[Taken]) -> int:
    left = draw.within + draw.beyond
    for share in account.shares:
        part = share.take_up_to(left, now)
        if part > 0:
            taken.append(Taken(draw.ref, draw.feature, share.lease_id, part, 0, is_rate=True))
            left -= part
    return left


def _take_amounts(
    account: _Account, draw: Draw, now: float, finish_until: float | None, taken: list[Taken]
) -> int:
    """First what lies inside the limit, of all leases, then what lies beyond it."""
    within, beyond = draw.within, draw.beyond
    for lease in account.leases:
        if not (within or beyond):
            return 0
        if not lease.free or not lease.is_spendable(now, finish_until):
            continue
        if lease.scope and draw.feature not in lease.scope:
            continue
        if not beyond and not lease.beyond and lease.free >= within:
            # Most draws end here: one lease has enough.
            lease.free -= within
            lease.charged += within
            lease.check()
            taken.append(Taken(draw.ref, draw.feature, lease.lease_id, within, 0, is_rate=False))
            return 0
        free_within = lease.free_within()
        part = min(within, free_within)
        # Beyond the limit burns last within a lease: only once nothing inside is left in it.
        extra = min(beyond, lease.free - free_within) if part == free_within else 0
        if part or extra:
            lease.free -= part + extra
            lease.charged += part + extra
            lease.check()
            taken.append(Taken(draw.ref, draw.feature, lease.lease_id, part + extra, extra, is_rate=False))
            within -= part
            beyond -= extra
    return within + beyond
