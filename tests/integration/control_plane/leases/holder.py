"""A sidecar as the control plane sees it: opens sessions, acquires, reports, without a network between."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from control_plane.db.unit_of_work import Database
from control_plane.leases.acquire import Acquiring
from control_plane.leases.recalls import answer_recall
from control_plane.leases.sessions import close_session, open_session
from control_plane.leases.settings import LeaseSettings
from control_plane.ledger.audit import audit
from control_plane.usage.report import report_batch
from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import usage_pb2 as usage

SETTINGS = LeaseSettings(recall_wait=timedelta(milliseconds=60), answering_wait=timedelta(milliseconds=300))
_KEYS = count(1)


def ref(customer_id: str, balance: str = "wallet:credit", subject_id: str = "") -> session.BalanceRef:
    """A balance, by default a wallet of credits."""
    return session.BalanceRef(customer_id=customer_id, subject_id=subject_id, balance=balance)


def event(
    customer_id: str, *, key: str = "", at: datetime, name: str = "call", **fields: Any
) -> usage.UsageEvent:
    """A usage event; without `key` it gets one of its own."""
    made = usage.UsageEvent(
        idempotency_key=key or f"key-{next(_KEYS)}", customer_id=customer_id, event_name=name, **fields
    )
    made.occurred_at.FromDatetime(at)
    return made


def content_hash(made: usage.UsageEvent) -> bytes:
    """As sidecars hash what the caller sent."""
    return hashlib.sha256(made.SerializeToString(deterministic=True)).digest()


class _Processes(dict[LeaseSettings, Acquiring]):
    """One of the control plane, per settings."""


def acquiring(database: Database, settings: LeaseSettings = SETTINGS) -> Acquiring:
    """The process that all holders ask: those who ask at once are answered together."""
    processes = database.kept(_Processes)
    return processes.setdefault(settings, Acquiring(database, settings))


@dataclass
class Holder:
    """One incarnation of one outbox. `written` are its records so far."""

    database: Database
    outbox_id: str = "outbox-a"
    incarnation_id: str = "inc-1"
    epoch: int = 0
    written: list[sync.Record] = field(default_factory=list)
    requests: int = 0

    @property
    def name(self) -> session.Holder:
        """As it says who it is."""
        return session.Holder(outbox_id=self.outbox_id, incarnation_id=self.incarnation_id)

    @property
    def last_seq(self) -> int:
        """The last number that it wrote."""
        return len(self.written)

    async def open(
        self,
        *earlier: tuple[str, int],
        last_seq: int | None = None,
        generation: int = 0,
        presented: Sequence[session.PresentedLease] = (),
        settings: LeaseSettings = SETTINGS,
    ) -> session.OpenSessionResponse:
        """Opens its session, naming earlier incarnations that are not closed, and what it holds."""
        own = (self.incarnation_id, self.last_seq if last_seq is None else last_seq)
        request = session.OpenSessionRequest(
            holder=self.name,
            label=self.outbox_id,
            open_incarnations=[
                session.IncarnationState(incarnation_id=name, last_seq=seq) for name, seq in (*earlier, own)
            ],
            generation=generation,
            presented_leases=presented,
        )
        response = await self.database.transact(lambda uow: open_session(uow, request, settings))
        self.epoch = response.epoch
        return response

    async def close(
        self, incarnation_id: str, final_seq: int, keep: dict[str, int] | None = None
    ) -> session.CloseSessionResponse:
        """Closes an earlier incarnation of its outbox."""
        request = session.CloseSessionRequest(
            holder=session.Holder(outbox_id=self.outbox_id, incarnation_id=incarnation_id),
            final_seq=final_seq,
            keep=[session.LeaseAmount(lease_id=one, amount=amount) for one, amount in (keep or {}).items()],
        )
        return await self.database.transact(lambda uow: close_session(uow, request))

    async def acquire(
        self,
        balance: session.BalanceRef,
        need: int,
        amount: int | None = None,
        *,
        settings: LeaseSettings = SETTINGS,
        request_id: str = "",
        returns: Sequence[session.LeaseReturn] = (),
        **want: Any,
    ) -> session.Acquired:
        """Acquires of one balance."""
        request = self.request(balance, need, amount, request_id=request_id, returns=returns, **want)
        return (await acquiring(self.database, settings).acquire(request)).acquired[0]

    def request(
        self,
        balance: session.BalanceRef,
        need: int,
        amount: int | None = None,
        *,
        request_id: str = "",
        returns: Sequence[session.LeaseReturn] = (),
        **want: Any,
    ) -> session.AcquireLeasesRequest:
        """An acquiring request of one balance."""
        self.requests += 1
        feature = want.pop("feature", "api" if balance.balance.startswith("wallet:") else "")
        return session.AcquireLeasesRequest(
            holder=self.name,
            epoch=self.epoch,
            request_id=request_id or f"{self.incarnation_id}-{self.requests}",
            wants=[
                session.Want(
                    ref=balance, feature=feature, need=need, amount=need if amount is None else amount, **want
                )
            ],
            returns=returns,
        )

    def write(self, record: sync.Record) -> sync.Record:
        """Appends a record to its outbox."""
        record.seq = self.last_seq + 1
        self.written.append(record)
        return record

    def consume(
        self,
        balance: session.BalanceRef,
        *parts: tuple[str, int],
        at: datetime,
        key: str = "",
        uncovered: int = 0,
        costs: Sequence[sync.Cost] = (),
        **fields: Any,
    ) -> sync.Record:
        """Writes decided usage that these leases cover."""
        made = event(balance.customer_id, key=key, at=at, **fields)
        record = sync.Usage(
            event=made,
            content_hash=content_hash(made),
            decided=True,
            decision_id=f"dec-{made.idempotency_key}-{self.outbox_id}",
            charges=[
                sync.Charge(
                    ref=balance,
                    covered=[session.LeaseAmount(lease_id=one, amount=amount) for one, amount in parts],
                    uncovered=uncovered,
                    exact="0",
                    feature="api",
                )
            ],
            costs=costs,
        )
        record.decided_at.FromDatetime(at)
        return self.write(sync.Record(usage=record))

    def report_fact(self, customer_id: str, *, at: datetime, key: str = "", **fields: Any) -> sync.Record:
        """Writes a fact."""
        made = event(customer_id, key=key, at=at, **fields)
        record = sync.Usage(event=made, content_hash=content_hash(made))
        record.decided_at.FromDatetime(at)
        return self.write(sync.Record(usage=record))

    def give_back(self, lease_id: str, amount: int) -> session.LeaseReturn:
        """Writes a return; answers it as it rides with an acquire."""
        record = self.write(sync.Record(returned=sync.ReturnedAmount(lease_id=lease_id, amount=amount)))
        uid = session.RecordUid(outbox_id=self.outbox_id, incarnation_id=self.incarnation_id, seq=record.seq)
        return session.LeaseReturn(uid=uid, lease_id=lease_id, amount=amount)

    async def upload(self, first: int = 1, last: int | None = None) -> sync.ReportBatchResponse:
        """Sends a run of its outbox, by default all of it."""
        end = self.last_seq if last is None else last
        request = sync.ReportBatchRequest(
            holder=self.name, first_seq=first, last_seq=end, records=self.written[first - 1 : end]
        )
        return await self.database.transact(lambda uow: report_batch(uow, request))

    async def obey(self, recall_id: str, *lease_ids: str) -> None:
        """Answers a recall: everything idle of these leases is written as returns."""
        async with self.database.begin() as uow:
            await answer_recall(
                uow,
                recall_id=recall_id,
                outbox_id=self.outbox_id,
                incarnation_id=self.incarnation_id,
                last_seq=self.last_seq,
                lease_ids=lease_ids,
            )


async def check_books(database: Database) -> None:
    """Every equation holds."""
    async with database.read() as uow:
        assert await audit(uow) == []
