"""Random interleavings of what holders and time do to a wallet, against a model; audited at each step."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from sqlalchemy import select

from control_plane.leases.sessions import Superseded
from control_plane.leases.settings import LeaseSettings
from control_plane.ledger.audit import audit, oversold
from control_plane.ledger.grants import NewGrant, create_grant, void_grant
from control_plane.ledger.rows import GrantRow
from control_plane.ledger.tables import balances, grants
from control_plane.usage.sweep import sweep
from tests.integration.control_plane.leases.holder import Holder, ref
from tests.integration.control_plane.setting import make_subscriber, publish_text
from tests.properties.control_plane.leases import holders_machine
from tests.properties.control_plane.leases.holders_machine import WHICH, HoldersMachine

WALLET = ref("acme")
SETTINGS = LeaseSettings(recall_wait=timedelta(0))
SPENDS_AFTER_END = timedelta(minutes=59)
"""A holder that is cut off finishes its slices, but not beyond `max_staleness`."""


@dataclass
class Local:
    """What a holder believes of one of its leases."""

    lease_id: str
    left: int
    until: datetime


@dataclass
class Sidecar(holders_machine.Sidecar):
    """And its book."""

    leases: list[Local] = field(default_factory=list)

    def forget(self) -> None:
        """It spends nothing of what its earlier incarnation leased."""
        self.leases = []


class BooksMachine(HoldersMachine[Sidecar]):
    """Two sidecars, one wallet of two grants, one of which expires."""

    def __init__(self) -> None:
        super().__init__()
        self.decided: dict[str, set[int]] = {}
        self.facts: dict[str, int] = {}
        self.granted = 0

    @initialize(lasting=st.integers(0, 250), passing=st.integers(1, 150))
    def begin(self, lasting: int, passing: int) -> None:
        """A wallet with a grant that stays and one that expires in an hour, or only that."""
        self.run(self._begin(lasting, passing))
        self.acquire(which=0, need=60, more=60)
        self.acquire(which=1, need=60, more=60)

    async def _begin(self, lasting: int, passing: int) -> None:
        await self.open_database()
        await publish_text(self.database)
        await make_subscriber(self.database, "acme", "paid")
        hour = timedelta(hours=1)
        await self._grant("passing", passing, expires_at=self.clock() + hour)
        if lasting:
            await self._grant("lasting", lasting)
        self.sidecars = [Sidecar(Holder(self.database, outbox_id=f"outbox-{n}")) for n in range(2)]
        for sidecar in self.sidecars:
            await sidecar.holder.open()

    async def _grant(self, grant_id: str, amount: int, **other: Any) -> None:
        new = NewGrant(
            grant_id=grant_id,
            customer_id="acme",
            unit="credit",
            scale=3,
            amount=amount,
            effective_at=self.clock(),
            **other,
        )
        self.granted += amount
        async with self.database.begin() as uow:
            await create_grant(uow, new)

    @rule(which=WHICH, need=st.integers(0, 150), more=st.integers(0, 150))
    def lease(self, which: int, need: int, more: int) -> None:
        """A sidecar takes a lease."""
        self.acquire(which, need, more)

    def acquire(self, which: int, need: int, more: int) -> None:
        """Takes a lease, and enters it in the sidecar's book."""
        sidecar = self.sidecars[which]
        asked = sidecar.holder.acquire(WALLET, need, need + more, settings=SETTINGS)
        if sidecar.is_dead:
            with pytest.raises(Superseded):
                self.run(asked)
            return
        answer = self.run(asked)
        for lease in answer.leases:
            amount = sum(piece.amount for piece in lease.slices)
            ends_at = lease.ends_at.ToDatetime(UTC)
            until = ends_at + SPENDS_AFTER_END
            if lease.HasField("never_after"):
                until = min(until, lease.never_after.ToDatetime(UTC))
            sidecar.leases.append(Local(lease.lease_id, amount, until))

    @rule(
        which=WHICH,
        pick=st.integers(0, 9),
        amount=st.integers(1, 300),
        again=st.booleans(),
        sent=st.booleans(),
    )
    def consume(self, which: int, pick: int, amount: int, again: bool, sent: bool) -> None:
        """A sidecar spends from one of its leases; sometimes under a key that was spent before."""
        sidecar = self.sidecars[which]
        open_leases = [one for one in sidecar.leases if one.left and self.clock() < one.until]
        if not open_leases:
            return
        lease = open_leases[pick % len(open_leases)]
        amount = min(amount, lease.left)
        if again and self.decided:
            key = sorted(self.decided)[pick % len(self.decided)]
            if any(record.usage.event.idempotency_key == key for record in sidecar.holder.written):
                return  # one sidecar answers a repeated key itself
        else:
            self.keys += 1
            key = f"decided-{self.keys}"
        at = datetime(2030, 1, 1, 12, tzinfo=UTC)  # the same content under the same key
        record = sidecar.holder.consume(WALLET, (lease.lease_id, amount), at=at, key=key)
        record.usage.decided_at.FromDatetime(self.clock())
        lease.left -= amount
        self.decided.setdefault(key, set()).add(amount)
        self._sent(sidecar, sent)

    @rule(which=WHICH, pick=st.integers(0, 9), amount=st.integers(1, 300), sent=st.booleans())
    def give_back(self, which: int, pick: int, amount: int, sent: bool) -> None:
        """A sidecar returns a part of a lease."""
        sidecar = self.sidecars[which]
        open_leases = [one for one in sidecar.leases if one.left]
        if open_leases:
            lease = open_leases[pick % len(open_leases)]
            amount = min(amount, lease.left)
            lease.left -= amount
            sidecar.holder.give_back(lease.lease_id, amount)
            self._sent(sidecar, sent)

    @rule(which=WHICH, minutes=st.integers(0, 90), size=st.integers(1, 150), sent=st.booleans())
    def fact(self, which: int, minutes: int, size: int, sent: bool) -> None:
        """Something has happened already, perhaps before the wallet had anything."""
        self.keys += 1
        key = f"fact-{self.keys}"
        at = max(self.clock() - timedelta(minutes=minutes), datetime(2030, 1, 1, 12, tzinfo=UTC))
        measure = f"{size * 2 / 1000:.3f}"
        self.sidecars[which].holder.report_fact("acme", at=at, key=key, measures={"size": measure})
        self.facts[key] = size
        self._sent(self.sidecars[which], sent)

    def _sent(self, sidecar: Sidecar, sent: bool) -> None:
        """Uploads all that the holder has written, if it is to be sent at once."""
        if sent:
            self.run(sidecar.holder.upload())

    @rule(which=WHICH, first=st.integers(0, 3), last=st.integers(1, 6))
    def upload(self, which: int, first: int, last: int) -> None:
        """A run is sent that overlaps what was sent before."""
        holder = self.sidecars[which].holder
        cursor = self.run(self._cursor(holder))
        begin, end = max(1, cursor + 1 - first), min(holder.last_seq, cursor + last)
        if begin <= end:
            self.run(holder.upload(begin, end))

    async def _cursor(self, holder: Holder) -> int:
        answer = await holder.upload(1, 1) if holder.last_seq else None
        return answer.cursor if answer else 0

    @rule(seconds=st.sampled_from([1, 1, 10, 40, 70, 600, 3600, 25 * 3600]))
    def time_passes(self, seconds: int) -> None:
        """Time goes on, up to where silence is presumed, and the sweep does what is due."""
        self.clock.advance(seconds=seconds)
        self.run(sweep(self.database, SETTINGS))

    @rule(amount=st.integers(1, 300))
    def top_up(self, amount: int) -> None:
        """A new grant, from now on."""
        self.keys += 1
        self.run(self._grant(f"more-{self.keys:03}", amount))

    @precondition(lambda self: self.keys % 7 == 3)
    @rule()
    def void(self) -> None:
        """The newest top-up is voided."""
        rows = [row for row in self.run(self._grants()) if row.id.startswith("more-")]
        if rows:
            self.run(self._void(max(row.id for row in rows)))

    async def _void(self, grant_id: str) -> None:
        async with self.database.begin() as uow:
            await void_grant(uow, grant_id)

    async def _grants(self) -> list[GrantRow]:
        async with self.database.read() as uow:
            rows = (await uow.connection.execute(select(grants))).mappings()
            return [GrantRow(**row) for row in rows]

    async def check(self) -> None:
        """Every equation holds, and nothing decided is beyond what there was."""
        async with self.database.read() as uow:
            assert await audit(uow) == []
            assert await oversold(uow) == 0

    async def settle(self) -> None:
        """Usage is in the books once, and every term adds up."""
        for sidecar in self.sidecars:
            for holder in (*sidecar.earlier, sidecar.holder):
                if holder.last_seq:
                    await holder.upload()
                await sidecar.holder.close(holder.incarnation_id, holder.last_seq)
        await sweep(self.database, SETTINGS)
        await self.check()
        rows = await self._grants()
        assert sum(row.leased + row.quarantined + row.presumed for row in rows) == 0
        async with self.database.read() as uow:
            overage = (await uow.connection.execute(select(balances.c.overage))).scalar_one()
        spent_by_leases = sum(row.spent - row.burned for row in rows)
        assert sum(row.burned for row in rows) + overage == sum(self.facts.values())
        assert spent_by_leases >= sum(min(amounts) for amounts in self.decided.values())
        assert spent_by_leases <= sum(max(amounts) for amounts in self.decided.values())
        assert sum(row.amount for row in rows) == self.granted


TestBooks = BooksMachine.TestCase
TestBooks.__doc__ = "Whatever happens in whatever order, the books balance and nothing is sold twice."
TestBooks.settings = holders_machine.SETTINGS
