"""What is looked at while it happens: leases as they are granted and spent, and charges on their way into the books."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, Final
from unittest import mock

from sqlalchemy import select

from control_plane.leases import acquire
from control_plane.leases.rows import insert_leases
from control_plane.leases.tables import sessions
from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as sync_usage
from sidecar.engine.values import BalanceRef
from sidecar.leases.book import LeaseBook
from sidecar.leases.held import DRIFT
from sidecar.leases.obeying import Obeying
from sidecar.view.pulse import Pulse
from tests.simulation.network import Wire
from tests.simulation.oracle import Oracle
from tests.simulation.plane import BASE
from tests.simulation.story import CUSTOMERS, MAX_STALENESS, PLANE
from tests.simulation.threads import Hub, Process

STALEST: Final = MAX_STALENESS * (1 + DRIFT)
"""So long a sidecar may finish its leases that hears nothing, in true seconds."""
TURN_SECONDS: Final = 0.5
"""Whoever saw that the control plane was away may act on it for so long after it came back."""
MOMENT: Final = 1e-5
"""Instants are rounded to microseconds on their way."""


@dataclass(frozen=True, slots=True)
class GrantedLease:
    """One that the control plane granted."""

    balance_id: str
    at: float
    """When, in true seconds."""
    begins: float
    """Since when it may be spent: the next period's may be taken ahead."""
    ends: float
    """By the books, whatever its holder was told."""
    revision: int


class Watch:
    """Looks on, and says at once what must not be."""

    def __init__(self, hub: Hub, oracle: Oracle) -> None:
        self._hub = hub
        self._oracle = oracle
        self._grants_end: dict[str, float] = {}
        self._heard: dict[Process | None, float] = {}
        """When each process of a sidecar last had a heartbeat."""
        self._connected: dict[Process | None, float] = {}
        """Since when each has a feed; not there: it has none."""
        self._cut: dict[tuple[Process | None, BalanceRef], int] = {}
        """Up to which revision each process has said that it gave its leases back."""
        self.leases: dict[str, GrantedLease] = {}
        self.charges: dict[str, list[tuple[str, int]]] = {}
        """By the uid of a record: from which leases it took how much, as it was sent."""

    @contextmanager
    def on(self) -> Iterator[None]:
        """Inside the block."""
        install, take, serve = LeaseBook.install, LeaseBook.take, Wire._serve
        beat, connect, obey = Pulse.beat, Pulse.connected, Obeying._obey

        def installed(book: LeaseBook, ref: Any, lease: session.Lease, **times: Any) -> Any:
            of_grants = (self._oracle.grant_ends.get(piece.grant_id, inf) for piece in lease.slices)
            self._grants_end[lease.lease_id] = min(of_grants, default=inf)
            return install(book, ref, lease, **times)

        def taken(book: LeaseBook, draws: Any, now: float, finish_until: float | None = None) -> Any:
            found = take(book, draws, now, finish_until)
            for one in found:
                if not one.is_rate:
                    may_finish = finish_until is not None and CUSTOMERS[one.ref.customer_id].finishes
                    self._spent(one.lease_id, is_finishing=may_finish)
                    self._spent_of_cut(one.ref, one.lease_id)
            return found

        def heard(pulse: Pulse, one: Any) -> None:
            self._heard[self._process] = self._hub.time()
            beat(pulse, one)

        def connected(pulse: Pulse, is_connected: bool) -> None:
            if is_connected:
                self._connected.setdefault(self._process, self._hub.time())
            else:
                self._connected.pop(self._process, None)
            connect(pulse, is_connected)

        def obeyed(obeying: Obeying, pending: Any, now: float) -> bool:
            found = obey(obeying, pending, now)
            if not pending.recall.idle_only:
                which = self._process, pending.ref
                self._cut[which] = max(self._cut.get(which, 0), pending.recall.revision)
            return found

        async def inserted(uow: Any, made: Any) -> None:
            await insert_leases(uow, made)
            for lease in made:
                await self._granted(uow, lease)

        async def served(wire: Wire, server: Any, method: str, raw: bytes, *rest: Any) -> None:
            if method == "ReportBatch":
                self._sent(sync_usage.ReportBatchRequest.FromString(raw))
            await serve(wire, server, method, raw, *rest)

        with (
            mock.patch.object(LeaseBook, "install", installed),
            mock.patch.object(LeaseBook, "take", taken),
            mock.patch.object(acquire, "insert_leases", inserted),
            mock.patch.object(Wire, "_serve", served),
            mock.patch.object(Pulse, "beat", heard),
            mock.patch.object(Pulse, "connected", connected),
            mock.patch.object(Obeying, "_obey", obeyed),
        ):
            yield

    @property
    def _process(self) -> Process | None:
        thread = self._hub.current
        return None if thread is None else thread.process

    def _spent(self, lease_id: str, *, is_finishing: bool) -> None:
        """Nothing is spent of a lease before its beginning, nor after its true end, but under `finish_lease` and until
        `max_staleness`; nor of a grant after that.
        """
        now, lease = self._hub.time(), self.leases[lease_id]
        if now < lease.begins - (lease.begins - lease.at) * DRIFT - MOMENT:
            self._oracle.violations.append(
                f"spent of lease {lease_id} {lease.begins - now:.3f} s before it begins"
            )
        late = now - lease.ends - MOMENT
        if late > 0 and not is_finishing:
            self._oracle.violations.append(f"spent of lease {lease_id} {late:.3f} s after its end")
        connected = now - self._connected.get(self._process, inf)
        if late > 0 and connected > TURN_SECONDS:
            self._oracle.violations.append(
                f"finished lease {lease_id}, and the control plane had been there for {connected:.3f} s"
            )
        unheard = now - self._heard.get(self._process, -inf)
        if late > 0 and unheard > STALEST:
            self._oracle.violations.append(
                f"finished lease {lease_id} {unheard:.3f} s after the last heartbeat"
            )
        late = now - self._grants_end[lease_id]
        if late > 0:
            self._oracle.violations.append(f"spent of a grant {late:.3f} s after its end, by {lease_id}")

    def _spent_of_cut(self, ref: BalanceRef, lease_id: str) -> None:
        """Nor of a lease of before a limit was lowered, once its holder has said that it gave it back."""
        revision = self._cut.get((self._process, ref), 0)
        if self.leases[lease_id].revision < revision:
            self._oracle.violations.append(f"spent of lease {lease_id}, which was given back for {revision}")

    async def _granted(self, uow: Any, lease: Any) -> None:
        """None is granted to who is not the newest of its kind."""
        theirs = sessions.c.incarnation_id == lease.incarnation_id
        state = (await uow.connection.execute(select(sessions.c.state).where(theirs))).scalar_one()
        if state != "open":
            self._oracle.violations.append(f"{lease.id} was granted to an incarnation that is {state}")
        begins, ends = ((at - BASE).total_seconds() for at in (lease.begins_at, lease.ends_at))
        if ends > begins + PLANE.lease_ttl.total_seconds() + MOMENT:
            self._oracle.violations.append(f"{lease.id} is to last for {ends - begins:.3f} s")
        self.leases[lease.id] = GrantedLease(lease.balance_id, self._hub.time(), begins, ends, lease.revision)

    def _sent(self, batch: sync_usage.ReportBatchRequest) -> None:
        for record in batch.records:
            if record.HasField("usage"):
                uid = record.first_written
                if not record.HasField("first_written"):
                    uid = session.RecordUid(**_of(batch.holder), seq=record.seq)
                self.charges[f"{uid.outbox_id}/{uid.incarnation_id}/{uid.seq}"] = [
                    (part.lease_id, part.amount) for charge in record.usage.charges for part in charge.covered
                ]


def _of(holder: session.Holder) -> dict[str, str]:
    return {"outbox_id": holder.outbox_id, "incarnation_id": holder.incarnation_id}
