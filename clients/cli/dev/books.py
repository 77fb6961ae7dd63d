"""The control plane's REST API, as far as the demo needs it: sets customers up, reads what the books say."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Self

import httpx

PAGE: Final = 500
TIMEOUT_SECONDS: Final = 30.0


class BooksRefused(RuntimeError):
    """The control plane said no, or not what the demo can read."""


@dataclass(frozen=True, slots=True)
class Balance:
    """One balance in the books, in its unit."""

    balance: str
    unit: str
    granted: Decimal
    available: Decimal
    leased: Decimal
    quarantined: Decimal
    spent: Decimal
    presumed: Decimal
    ended: Decimal
    overage: Decimal

    @property
    def left(self) -> Decimal:
        """What nobody has spent, wherever it is."""
        return self.available + self.leased + self.quarantined


@dataclass(frozen=True, slots=True)
class Booked:
    """One event in the books."""

    customer_id: str
    key: str
    cost: Decimal | None
    decided: bool
    billed: Decimal = Decimal(0)
    """The part of the cost that is billed in arrears."""


class Books:
    """Speaks to one control plane. Safe to share between threads."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        """`url` without /v1."""
        self._http = httpx.Client(base_url=f"{url}/v1", timeout=TIMEOUT_SECONDS, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def publish(self, catalog: str, *, move: str = "none") -> int:
        """Publishes a catalog file: its revision."""
        answer = self._post("/catalog/revisions", content=catalog, params={"move": move})
        return int(answer["revision"])

    def customer(self, customer_id: str, plan: str) -> int:
        """A new customer on a plan: the revision of it."""
        self._post("/customers", json={"id": customer_id, "name": customer_id.title()})
        body = {"id": f"sub_{customer_id}", "customer_id": customer_id, "plan": plan}
        return int(self._post("/subscriptions", json=body)["revision"])

    def grant(self, customer_id: str, unit: str, amount: Decimal) -> int:
        """Puts an amount into a wallet: the revision of it."""
        body = {"customer_id": customer_id, "unit": unit, "amount": f"{amount:f}"}
        return int(self._post("/grants", json=body)["revision"])

    def balances(self, customer_id: str) -> dict[str, Balance]:
        """Every balance of a customer, by name."""
        return {
            item["balance"]: Balance(
                balance=item["balance"],
                unit=item["unit"],
                **{name: Decimal(str(item[name])) for name in _AMOUNTS},
            )
            for item in self._items(f"/customers/{customer_id}/balances")
        }

    def events(self, customer_id: str) -> list[Booked]:
        """Every event of a customer."""
        return [
            Booked(
                customer_id,
                item["idempotency_key"],
                _cost(item.get("cost")),
                bool(item["decided"]),
                sum((Decimal(str(line["billed"])) for line in item.get("costs", ())), Decimal(0)),
            )
            for item in self._items("/events", customer_id=customer_id, limit=PAGE)
        ]

    def event_count(self, customer_id: str, rate_card: str) -> int:
        """How many events of a customer a rate card has priced: a cheap question, to be asked often."""
        lines = self._call("GET", f"/customers/{customer_id}/usage")["costs"]
        return sum(int(line["events"]) for line in lines if line["rate_card"] == rate_card)

    def dead_letters(self) -> int:
        """How many records could not be booked."""
        return sum(1 for _ in self._items("/dead-letters"))

    def _items(self, path: str, **params: Any) -> Iterator[dict[str, Any]]:
        cursor: str | None = ""
        while cursor is not None:
            page = self._call("GET", path, params={**params, **({"cursor": cursor} if cursor else {})})
            yield from page["items"]
            cursor = page.get("next_cursor") or None

    def _post(self, path: str, **request: Any) -> Any:
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        if "content" in request:
            headers["Content-Type"] = "application/yaml"
        return self._call("POST", path, headers=headers, **request)

    def _call(self, method: str, path: str, **request: Any) -> Any:
        response = self._http.request(method, path, **request)
        if not response.is_success:
            raise BooksRefused(f"{method} {path}: {response.status_code} {response.text[:2000]}")
        return response.json()


def _cost(value: Any) -> Decimal | None:
    """A cost is an amount `{unit, value}` or its value."""
    if value is None or value == []:
        return None
    return Decimal(str(value["value"] if isinstance(value, dict) else value))


_AMOUNTS: Final = ("granted", "available", "leased", "quarantined", "spent", "presumed", "ended", "overage")
