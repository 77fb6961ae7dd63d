"""What the books say in the end, as values."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Protocol

TERMS: Final = ("granted", "available", "leased", "quarantined", "spent", "presumed", "ended", "overage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """One event in the books."""

    key: str
    customer_id: str
    points: Decimal = Decimal(0)
    decided: bool = True
    cost: Decimal | None = None
    change: str = ""
    """Of a gauge event."""
    holder: str = ""


@dataclass(frozen=True, slots=True)
class Balance:
    """One balance as it stands; a gauge's `spent` is what is held of it."""

    granted: Decimal = Decimal(0)
    available: Decimal = Decimal(0)
    leased: Decimal = Decimal(0)
    quarantined: Decimal = Decimal(0)
    spent: Decimal = Decimal(0)
    presumed: Decimal = Decimal(0)
    ended: Decimal = Decimal(0)
    overage: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Books:
    """All of it."""

    events: tuple[Booked, ...]
    balances: Mapping[tuple[str, str], Balance]
    """By customer and name."""
    dead_letters: tuple[str, ...] = ()
    equations: tuple[str, ...] = ()
    """Those that do not hold, in words."""
    is_closed: bool = False
    """Have all sidecars ended in order?"""
    in_quarantine: Mapping[tuple[str, str], Mapping[str, Decimal]] = field(default_factory=dict)
    """By balance, as `balances`, and incarnation: what its leases still have there."""
    left_seats: Mapping[str, Decimal] = field(default_factory=dict)
    """By customer: what is held after everyone who was told to have a seat has given it back."""


class Rest(Protocol):
    """Reads over REST."""

    def get(self, path: str, **params: Any) -> Any:
        """The answer's JSON."""


def read_all(rest: Rest, path: str, **params: Any) -> list[dict[str, Any]]:
    """A list, page by page."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = rest.get(path, limit=500, **params, **cursor)
        items += page["items"]
        if not page.get("next_cursor"):
            return items
        cursor = {"cursor": page["next_cursor"]}


def read_events(rest: Rest) -> tuple[Booked, ...]:
    """Every event in the books."""
    return tuple(_booked(item) for item in read_all(rest, "/events"))


def read_balances(rest: Rest, customer_id: str) -> dict[str, Balance]:
    """One customer's balances, by name."""
    items = rest.get(f"/customers/{customer_id}/balances")["items"]
    return {item["balance"]: Balance(*(Decimal(item[term]) for term in TERMS)) for item in items}


def read_dead_letters(rest: Rest) -> tuple[str, ...]:
    """What could not be booked."""
    items = read_all(rest, "/dead-letters")
    return tuple(
        f"{item.get('idempotency_key')}: {item.get('reason')} {item.get('message')}" for item in items
    )


def read_quarantine(rest: Rest) -> dict[tuple[str, str], dict[str, Decimal]]:
    """What leases in quarantine still have, by balance and incarnation."""
    found: defaultdict[tuple[str, str], defaultdict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for lease in read_all(rest, "/leases", state="quarantined"):
        balance = lease["customer_id"], lease["balance"]
        found[balance][lease["incarnation_id"]] += Decimal(lease["unsettled"])
    return {balance: dict(by_incarnation) for balance, by_incarnation in found.items()}


def _booked(item: dict[str, Any]) -> Booked:
    return Booked(
        key=item["idempotency_key"],
        customer_id=item["customer_id"],
        points=Decimal(item["measures"].get("points", "0")),
        decided=item["decided"],
        cost=Decimal(item["cost"]["value"]) if item["cost"] else None,
        change=item["gauge_change"] or "",
        holder=item["holder_id"] or "",
    )
