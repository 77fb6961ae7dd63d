"""How a reservation and what it holds are written: all in one commit, or it did not happen."""

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.deciding.consume import shown
from sidecar.deciding.holding import lease_changes_at_end, stored
from sidecar.deciding.records import lease_changes
from sidecar.deciding.reserved import Hold, Reserved
from sidecar.deciding.reserving.desk import Desk
from sidecar.deciding.spending import Spent, Till
from sidecar.deciding.unreported import Unreported
from sidecar.engine.entitlement import Entitlements
from sidecar.leases.book import LeaseBook
from sidecar.outbox.port import KeyEntry, KeyTaken, Outbox, ReservationMoved, Write, Written
from sidecar.runtime.trouble import NotWritten, OutcomeUnknown


@dataclass(frozen=True, slots=True)
class Event:
    """The one event of a reservation that ends: the encoded usage, its key, and how it is paid."""

    usage: bytes
    key: KeyEntry
    spent: Spent | None = None
    """What it charges, and what was taken for it beyond the holds. None: it is a fact."""
    paid: tuple[Hold, ...] = ()
    left: tuple[Hold, ...] = ()
    """What the holds pay, and what is left of them."""


@dataclass(frozen=True, slots=True)
class Commits:
    """Thread-safe; who writes a reservation is alone with it. Raises NotWritten and OutcomeUnknown."""

    outbox: Outbox
    book: LeaseBook
    till: Till
    desk: Desk
    unreported: Unreported

    def hold(self, after: Reserved, spent: Spent | None, entitlements: Entitlements | None) -> bool:
        """Writes one that is open and holds what was taken as well. False: it moved meanwhile, nothing was taken."""
        taken = () if spent is None else spent.taken

        def applied() -> None:
            with self.book.lock:
                self.book.hold(taken)
            self.desk.remember(after, entitlements)

        write = Write(
            reservation=stored(after),
            leases=lease_changes(taken, held=True),
            is_remembered=self.desk.is_open(after.reservation_id),
        )
        return isinstance(self._commit(write, applied, spent), Written)

    def end(
        self, before: Reserved, ended: Reserved, event: Event | None
    ) -> Written | KeyTaken | ReservationMoved:
        """Writes one that has ended: its event, if it makes one, and its holds set free."""
        paid, left, spent = (
            ((), before.holds, None) if event is None else (event.paid, event.left, event.spent)
        )
        taken = () if spent is None else spent.taken

        def applied() -> None:
            with self.book.lock:
                for hold in paid:
                    self.book.charge_held(hold.lease_id, hold.amount)
                for hold in left:
                    self.book.release_held(hold.lease_id, hold.amount)
            self.desk.forget(ended)

        write = Write(
            usage=b"" if event is None else event.usage,
            key=None if event is None else event.key,
            reservation=stored(ended),
            leases=lease_changes_at_end(before.holds, paid, taken),
            is_remembered=self.desk.is_open(before.reservation_id),
        )
        result = self._commit(write, applied, spent)
        if isinstance(result, Written) and spent is not None:
            self.till.settled(spent)
            self.unreported.charged(result.seq, shown(spent).items())
        return result

    def _commit(
        self, write: Write, applied: Callable[[], None], spent: Spent | None
    ) -> Written | KeyTaken | ReservationMoved:
        """`applied` is called once it is durable, also when that is only known later; else `spent` is given back."""

        def undone() -> None:
            if spent is not None:
                self.till.give_back(spent)

        try:
            result = self.outbox.commit(write)
        except NotWritten:
            undone()
            raise
        except OutcomeUnknown as error:
            error.resolution.then(lambda known: applied() if known else undone())
            raise
        if isinstance(result, Written):
            applied()
        else:
            undone()
        return result
