"""How balances stand at the control plane: for answers, never for deciding what may be spent."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.view.states import instant, ref_of


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
    scoped: Mapping[str, int] = field(default_factory=dict)
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
    return Hint(
        ref=ref_of(hint.ref),
        version=hint.version,
        granted=hint.granted if hint.HasField("granted") else None,
        used=hint.used,
        available=hint.available,
        leased=hint.leased,
        overage=hint.overage,
        period_start=instant(hint.period_start) if hint.HasField("period_start") else None,
        period_end=instant(hint.period_end) if hint.HasField("period_end") else None,
        next_expiry_at=instant(hint.next_expiry_at) if hint.HasField("next_expiry_at") else None,
        scoped={item.feature: item.available for item in hint.scoped},
        counted_through=counted_through,
    )
