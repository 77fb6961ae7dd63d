"""The books: transactions of postings that sum to zero, collected in memory and appended in bulk."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from control_plane.db.bulk import append
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.identity import new_id
from control_plane.ledger.tables import postings, transactions


class Unbalanced(AssertionError):
    """The postings of a transaction do not sum to zero."""


@dataclass(slots=True)
class Entry:
    """One transaction in the making."""

    row: dict[str, Any]
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def id(self) -> str:
        identity: str = self.row["id"]
        return identity

    def post(
        self,
        account: str,
        amount: int,
        *,
        unit: str,
        balance_id: str | None = None,
        grant_id: str | None = None,
        lease_id: str | None = None,
        feature: str | None = None,
        rate_card: str | None = None,
        catalog_revision: int | None = None,
    ) -> None:
        """Adds a line; one of amount 0 is left out."""
        if amount:
            self.lines.append(
                {
                    "transaction_id": self.id,
                    "line": len(self.lines) + 1,
                    "account": account,
                    "amount": amount,
                    "unit": unit,
                    "balance_id": balance_id,
                    "grant_id": grant_id,
                    "lease_id": lease_id,
                    "feature": feature,
                    "rate_card": rate_card,
                    "catalog_revision": catalog_revision,
                }
            )


class Journal:
    """Collects the transactions of one unit of work; `flush` appends them."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def entry(
        self,
        *,
        cause: str,
        customer_id: str,
        occurred_at: datetime,
        recorded_at: datetime,
        event_uid: str | None = None,
        decision_id: str | None = None,
        reference: str | None = None,
    ) -> Entry:
        """Opens a transaction. Without lines it is not written."""
        entry = Entry(
            {
                "id": new_id("txn", recorded_at),
                "cause": cause,
                "customer_id": customer_id,
                "event_uid": event_uid,
                "decision_id": decision_id,
                "reference": reference,
                "occurred_at": occurred_at,
                "recorded_at": recorded_at,
            }
        )
        self._entries.append(entry)
        return entry

    async def flush(self, uow: UnitOfWork) -> None:
        """Appends everything. Raises Unbalanced before anything is written."""
        written = [entry for entry in self._entries if entry.lines]
        self._entries = []
        for entry in written:
            _check_balanced(entry.lines)
        await append(uow.connection, transactions, [entry.row for entry in written])
        await append(uow.connection, postings, [line for entry in written for line in entry.lines])


def _check_balanced(lines: Sequence[dict[str, Any]]) -> None:
    sums: defaultdict[str, int] = defaultdict(int)
    for line in lines:
        sums[line["unit"]] += line["amount"]
    if any(sums.values()):
        raise Unbalanced(f"postings of {lines[0]['transaction_id']} leave {dict(sums)}")
