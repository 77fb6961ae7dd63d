"""What booking appends: events, charges, costs and their transactions, collected and written in bulk."""

from datetime import datetime
from typing import Any

from control_plane.db.bulk import append
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.journal import Entry, Journal
from control_plane.usage.records import Item, instant
from control_plane.usage.statuses import EventStatus
from control_plane.usage.tables import event_charges, event_costs, events
from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import usage_pb2 as usage
from sidecar.engine.evaluate import CostCharge
from sidecar.engine.values import format_decimal

_GAUGE_CHANGES = {number: name.removeprefix("GAUGE_CHANGE_") for name, number in usage.GaugeChange.items()}


class Appends:
    """Rows of one run of records."""

    def __init__(self, uow: UnitOfWork, journal: Journal) -> None:
        self._uow = uow
        self._journal = journal
        self._events: list[dict[str, Any]] = []
        self._charges: list[dict[str, Any]] = []
        self._costs: list[dict[str, Any]] = []

    def event(self, item: Item, *, at: datetime, status: EventStatus) -> Entry:
        """Keeps the event, and opens its transaction, booked at `at`."""
        record, event = item.usage, item.usage.event
        entry = self._journal.entry(
            cause="usage",
            customer_id=event.customer_id,
            occurred_at=at,
            recorded_at=self._uow.now,
            event_uid=item.name,
            decision_id=record.decision_id or None,
        )
        self._events.append(
            {
                "uid": item.name,
                "recorded_at": self._uow.now,
                "customer_id": event.customer_id,
                "subject_id": event.subject_id,
                "app_id": event.app_id,
                "event_name": event.event_name,
                "idempotency_key": event.idempotency_key,
                "measures": dict(event.measures),
                "attributes": dict(event.attributes),
                "occurred_at": instant(event.occurred_at),
                "correlation_id": event.correlation_id,
                "holder_id": event.holder_id,
                "gauge_change": _GAUGE_CHANGES[event.gauge_change] if event.gauge_change else "",
                "gauge_feature": event.gauge_feature,
                "decided": record.decided,
                "decision_id": record.decision_id,
                "decided_at": instant(record.decided_at),
                "view_revision": record.view_revision,
                "status": status.value,
                "transaction_id": entry.id,
            }
        )
        return entry

    def charge(
        self,
        name: str,
        line: int,
        *,
        balance_id: str,
        feature: str,
        covered: int,
        uncovered: int,
        exact: str,
    ) -> None:
        """Keeps what the event charged to one balance."""
        self._charges.append(
            {
                "event_uid": name,
                "line": line,
                "balance_id": balance_id,
                "feature": feature,
                "covered": covered,
                "uncovered": uncovered,
                "exact": exact,
            }
        )

    def cost(self, item: Item, line: int, cost: sync.Cost, entry: Entry) -> None:
        """Keeps what a rate card makes of a decided event, and posts what is billed."""
        row = {
            "event_uid": item.name,
            "line": line,
            "feature": cost.feature,
            "rate_card": cost.rate_card,
            "catalog_revision": cost.catalog_revision,
            "unit": cost.unit,
            "amount": cost.amount,
            "exact": cost.exact,
            "billed": cost.billed,
            "billed_exact": cost.billed_exact or "0",
        }
        self._cost(item, row, entry)

    def cost_of_fact(self, item: Item, line: int, cost: CostCharge, entry: Entry) -> None:
        """As `cost`, for what the engine made of a fact."""
        row = {
            "event_uid": item.name,
            "line": line,
            "feature": cost.feature,
            "rate_card": cost.rate_card,
            "catalog_revision": cost.catalog_revision,
            "unit": cost.unit,
            "amount": cost.amount,
            "exact": format_decimal(cost.exact),
            "billed": cost.billed,
            "billed_exact": format_decimal(cost.billed_exact),
        }
        self._cost(item, row, entry)

    def _cost(self, item: Item, row: dict[str, Any], entry: Entry) -> None:
        self._costs.append(row)
        billed: int = row["billed"]
        for account, amount in (
            (f"receivable:{item.usage.event.customer_id}", billed),
            (f"revenue:{row['feature']}", -billed),
        ):
            entry.post(
                account,
                amount,
                unit=row["unit"],
                feature=row["feature"],
                rate_card=row["rate_card"],
                catalog_revision=row["catalog_revision"],
            )

    async def save(self) -> None:
        """Writes everything but the transactions, which go with the journal."""
        for table, rows in (
            (events, self._events),
            (event_charges, self._charges),
            (event_costs, self._costs),
        ):
            await append(self._uow.connection, table, rows)
