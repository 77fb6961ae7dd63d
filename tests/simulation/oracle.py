"""What callers were told, kept outside of the system, and held against its books."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import StrEnum


class Told(StrEnum):
    """How one call ended, for its caller."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    FAILED = "failed"
    """A status that says that nothing was written."""
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Use:
    """One idempotency key, and everything that was said about it."""

    key: str
    customer_id: str
    balance: str
    """What it is charged to, as the oracle counts it."""
    amount: int
    is_fact: bool
    asked_at: float
    told: list[tuple[float, Told, str]] = field(default_factory=list)
    """When and how calls ended, and at which sidecar."""
    may_be_lost: bool = False
    """Who acknowledged it has lost its disk since."""
    is_forgotten: bool = False
    """And the control plane has heard nothing of that time: nobody can know that it was spent."""

    @property
    def was_accepted(self) -> bool:
        """By anybody, with `ACCEPTED` or `DUPLICATE`."""
        return any(told is Told.ACCEPTED for _, told, _ in self.told)

    @property
    def may_be_booked(self) -> bool:
        """Is there a call that may have been written?"""
        return any(told in {Told.ACCEPTED, Told.UNKNOWN} for _, told, _ in self.told)


@dataclass(slots=True)
class Held:
    """A reservation that was acknowledged."""

    key: str
    node: int
    amount: int
    since: float = 0.0
    may_be_lost: bool = False
    is_open: bool = True
    """Its end was not heard of."""


class Oracle:
    """All uses of one simulation."""

    def __init__(self) -> None:
        self.uses: dict[str, Use] = {}
        self.granted: defaultdict[tuple[str, str], int] = defaultdict(int)
        """What each hard balance was ever given."""
        self.holds: dict[str, Held] = {}
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.is_promise_void = False
        """A restored control plane does not cover leases that its backup has not seen and nobody presents."""

    def ask(self, use: Use) -> Use:
        """A call is made with this key, perhaps again."""
        return self.uses.setdefault(use.key, use)

    def told(self, use: Use, at: float, told: Told, node: str) -> None:
        """A caller heard this."""
        use.told.append((at, told, node))
        self.counts[told.value] += 1
        if told is Told.ACCEPTED and not self.is_promise_void:
            self._check_spent(use)

    def _check_spent(self, use: Use) -> None:
        """What was decided on a hard balance is never more than it was ever given."""
        of_balance = (use.customer_id, use.balance)
        spent = sum(
            other.amount
            for other in self.uses.values()
            if (other.customer_id, other.balance) == of_balance
            and other.was_accepted
            and not (other.is_fact or other.is_forgotten)
        )
        if of_balance in self.granted and spent > self.granted[of_balance]:
            self.violations.append(
                f"oversold: {spent} of {self.granted[of_balance]} on {of_balance}, with {use.key}"
            )

    def hold_is_unknown(self, held: Held, node: str) -> None:
        """A sidecar has forgotten what it had acknowledged."""
        if not held.may_be_lost:
            self.violations.append(
                f"{held.key} was reserved at {node} for {held.amount} and is not known there"
            )

    def lost_disk(self, node: str, since: float, *, is_unnoticed: bool) -> None:
        """A sidecar's disk went back to how it was then: what it acknowledged after that may be gone."""
        for use in self.uses.values():
            if any(where == node and at >= since for at, _, where in use.told):
                use.may_be_lost = True
                use.is_forgotten |= is_unnoticed
        for held in self.holds.values():
            if held.since >= since and node.endswith(f"-{held.node}"):
                held.may_be_lost = True

    def check_books(self, booked: dict[str, tuple[str, int]]) -> None:
        """At the end. `booked`: key → (customer, amount) of every event in the books, each once."""
        for use in self.uses.values():
            found = booked.get(use.key)
            if found is None:
                if use.was_accepted and not use.may_be_lost:
                    self.violations.append(
                        f"lost: {use.key} was accepted ({use.told}) and is not in the books"
                    )
            elif found != (use.customer_id, use.amount):
                self.violations.append(f"changed: {use.key} is {found}, and was {use}")
            elif not use.may_be_booked:
                self.violations.append(f"invented: {use.key} is in the books, and was only {use.told}")
        for key in booked.keys() - self.uses.keys():
            self.violations.append(f"invented: nobody asked for {key}")
