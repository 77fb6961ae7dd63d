"""The reservations that are open, and the rule that calls of one go one after the other."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from sidecar.deciding.party import Parties
from sidecar.deciding.reserved import Reserved, decode
from sidecar.engine.entitlement import Entitlements
from sidecar.leases.book import LeaseBook
from sidecar.outbox.port import Outbox


class Desk:
    """Thread-safe. What it remembers is in the outbox already; who changes a reservation is `alone` with it."""

    def __init__(self, *, outbox: Outbox, book: LeaseBook, parties: Parties) -> None:
        """Knows no reservation until `restore`."""
        self._outbox = outbox
        self._book = book
        self._parties = parties
        self._lock = threading.Lock()
        self._busy: dict[str, tuple[threading.Lock, int]] = {}
        self._open: dict[str, tuple[Reserved, Entitlements | None]] = {}
        self._per_customer: dict[str, int] = {}
        self._on_busy: Callable[[], None] = lambda: None

    def restore(self) -> int:
        """At the start: holds of earlier incarnations go on. Returns how many."""
        for row in self._outbox.open_reservations():
            reserved = decode(row.state, row.version)
            with self._book.lock:
                for hold in reserved.holds:
                    self._book.restore_hold(hold.ref, hold.lease_id, hold.amount)
            self.remember(reserved, None)
        return len(self._open)

    def on_busy(self, call: Callable[[], None]) -> None:
        """What to call when `is_busy` begins to hold. Must not block."""
        self._on_busy = call

    @property
    def is_busy(self) -> bool:
        """Is anything reserved?"""
        return bool(self._open)

    def is_pinned(self, customer_id: str) -> bool:
        """Has this customer an open reservation?"""
        return customer_id in self._per_customer

    def customers(self) -> list[str]:
        """Those with an open reservation: their states are wanted before anybody asks for them."""
        return [customer_id for customer_id in list(self._per_customer) if customer_id]

    def due(self, now: datetime) -> list[str]:
        """The ids of those whose time has run out."""
        return [key for key, (reserved, _) in list(self._open.items()) if reserved.expires_at <= now]

    @contextmanager
    def alone(self, reservation_id: str) -> Iterator[None]:
        """Calls of one reservation go one after the other; those of others do not wait for them."""
        with self._lock:
            lock, users = self._busy.get(reservation_id, (None, 0))
            lock = lock or threading.Lock()
            self._busy[reservation_id] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                _, users = self._busy[reservation_id]
                if users == 1:
                    del self._busy[reservation_id]
                else:
                    self._busy[reservation_id] = (lock, users - 1)

    def find(self, reservation_id: str) -> Reserved | None:
        """An open one from memory, an ended one from the outbox. None: it was never heard of."""
        found = self._open.get(reservation_id)
        if found is not None:
            return found[0]
        row = self._outbox.reservation(reservation_id)
        return None if row is None else decode(row.state, row.version)

    def is_open(self, reservation_id: str) -> bool:
        """Is it remembered as open, whatever became of the disk meanwhile?"""
        return reservation_id in self._open

    def decided_by(self, reservation_id: str) -> Entitlements | None:
        """The entitlements that it was decided by. None: it is not open, or was before a restart."""
        found = self._open.get(reservation_id)
        return None if found is None else found[1]

    def is_known(self, reserved: Reserved) -> bool:
        """False: after a restart, and its customer is not here yet."""
        return (
            reserved.is_fact
            or self.decided_by(reserved.reservation_id) is not None
            or self._parties.view.customer(reserved.customer_id) is not None
        )

    def entitlements(self, reserved: Reserved, deadline: float | None) -> Entitlements | None:
        """Those that it was decided by; after a restart the present ones, for which the control plane is waited for
        until `deadline` (None: not at all). None: nobody can tell, so that its event is a fact.
        """
        if reserved.is_fact:
            return None
        known = self.decided_by(reserved.reservation_id)
        if known is not None:
            return known
        if deadline is None and not self.is_known(reserved):
            return None
        return self._parties.find(reserved.customer_id, "", deadline=deadline or 0.0).entitlements

    def remember(self, reserved: Reserved, entitlements: Entitlements | None) -> None:
        """It is open, and stands like this."""
        with self._lock:
            if reserved.reservation_id not in self._open:
                count = self._per_customer.get(reserved.customer_id, 0)
                self._per_customer[reserved.customer_id] = count + 1
            is_first = not self._open
            self._open[reserved.reservation_id] = (reserved, entitlements)
        if is_first:
            self._on_busy()

    def forget(self, reserved: Reserved) -> None:
        """It has ended."""
        with self._lock:
            if self._open.pop(reserved.reservation_id, None) is not None:
                left = self._per_customer[reserved.customer_id] - 1
                if left:
                    self._per_customer[reserved.customer_id] = left
                else:
                    del self._per_customer[reserved.customer_id]
