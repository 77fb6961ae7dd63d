"""How balances stand at the control plane: for answers, never for deciding what may be spent."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.view.states import instant, ref_of

_UNSCOPED: Final[Mapping[str, int]] = {}
"""One for all hints without scopes, which are most."""


@dataclass(frozen=True, slots=True)
class Hint:
    """A `BalanceHint` of the feed, typed. Amounts at the balance's scale; `granted` None: unlimited."""

    ref: BalanceRef
    version: int
    granted: int | None
    used: int
    available: int
    leased: int
    overage: int
    period_start: datetime | None
    period_end: datetime | None
    next_expiry_at: datetime | None
    scoped: Mapping[str, int] = field(default_factory=lambda: _UNSCOPED)
    counted_through: int = field(default=0, compare=False)
    """It counts what this incarnation has reported up to this number, and nothing of it after."""

    def as_message(self) -> session.BalanceHint:
        """As the feed carries it."""
        message = session.BalanceHint(
            ref=session.BalanceRef(
                customer_id=self.ref.customer_id, subject_id=self.ref.subject_id, balance=self.ref.balance
            ),
            version=self.version,
            granted=self.granted,
            used=self.used,
            available=self.available,
            leased=self.leased,
            overage=self.overage,
            scoped=[
                session.ScopedAmount(feature=name, available=value) for name, value in self.scoped.items()
            ],
        )
        for name in ("period_start", "period_end", "next_expiry_at"):
            at: datetime | None = getattr(self, name)
            if at is not None:
                getattr(message, name).FromDatetime(at)
        return message

    def available_to(self, feature: str) -> int:
        """What one feature could still draw: one that no scope names, what is for all."""
        return self.scoped.get(feature, self.scoped.get("", self.available))


def hint_of(hint: session.BalanceHint, counted_through: int = 0) -> Hint:
    """Raises BadState."""
    return _typed(ref_of(hint.ref), hint, counted_through)


def _typed(ref: BalanceRef, hint: session.BalanceHint, counted_through: int) -> Hint:
    return Hint(
        ref=ref,
        version=hint.version,
        granted=hint.granted if hint.HasField("granted") else None,
        used=hint.used,
        available=hint.available,
        leased=hint.leased,
        overage=hint.overage,
        period_start=instant(hint.period_start) if hint.HasField("period_start") else None,
        period_end=instant(hint.period_end) if hint.HasField("period_end") else None,
        next_expiry_at=instant(hint.next_expiry_at) if hint.HasField("next_expiry_at") else None,
        scoped={item.feature: item.available for item in hint.scoped} or _UNSCOPED,
        counted_through=counted_through,
    )


def supersedes(hint: Hint, held: Hint, *, in_order: bool) -> bool:
    """Was it read later? What leases spend raises no version: the reporter's cursor tells for what was spent here. On
    the feed a later one also tells what others have spent, or that a limit changed and no balance did.
    """
    stamp, held_stamp = (hint.version, hint.counted_through), (held.version, held.counted_through)
    return stamp > held_stamp or (in_order and stamp == held_stamp and hint != held)


Packed = tuple[bytes, ...]
"""Hints of one customer as `BalanceHints`, one for each number that they count through; its id is left out of them."""


def packed(hints: Iterable[Hint]) -> Packed:
    """All of one customer."""
    groups: dict[int, feed.BalanceHints] = {}
    for hint in hints:
        message = hint.as_message()
        message.ref.customer_id = ""
        group = groups.get(hint.counted_through)
        if group is None:
            group = groups[hint.counted_through] = feed.BalanceHints(counted_through=hint.counted_through)
        group.hints.append(message)
    return tuple(group.SerializeToString() for group in groups.values())


def unpacked(customer_id: str, hints: Packed) -> dict[BalanceRef, Hint]:
    """What was packed, by balance."""
    found: dict[BalanceRef, Hint] = {}
    for encoded in hints:
        group = feed.BalanceHints.FromString(encoded)
        for message in group.hints:
            ref = ref_of(message.ref)._replace(customer_id=customer_id)
            found[ref] = _typed(ref, message, group.counted_through)
    return found


def messages(customer_id: str, hints: Packed) -> Iterator[session.BalanceHint]:
    """What was packed, as the feed carries it."""
    for encoded in hints:
        for message in feed.BalanceHints.FromString(encoded).hints:
            message.ref.customer_id = customer_id
            yield message
