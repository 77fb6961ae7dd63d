"""What a kept answer rests on, and whether all of that is as it was."""

from dataclasses import dataclass

from sidecar.deciding.unreported import Unreported
from sidecar.engine.values import BalanceRef
from sidecar.leases.book import Spending as Book
from sidecar.view.entries import Compiled, SubjectEntry
from sidecar.view.hints import Hint
from sidecar.view.memory import View

Stand = tuple[BalanceRef, Hint | None, int, int, bool]
"""How a balance was known: its hint, what is not reported of it, what is held, and whether a share of it is here."""


class Basis:
    """What one answer rests on. The answer holds while the view is LIVE and all of this is as it was."""

    __slots__ = ("balances", "compiled", "customer_id", "seen", "subject", "subject_id", "until")

    def __init__(
        self,
        *,
        customer_id: str,
        compiled: Compiled,
        subject_id: str,
        subject: SubjectEntry | None,
        balances: tuple[Stand, ...],
        until: float,
        seen: int,
    ) -> None:
        """`until`: monotonic seconds. `seen`: the number of changes (`Kept.changes`) at which all this was so."""
        self.customer_id = customer_id
        self.compiled = compiled
        self.subject_id = subject_id
        self.subject = subject
        self.balances = balances
        self.until = until
        self.seen = seen


@dataclass(frozen=True, slots=True)
class Grounds:
    """Where everything stands that an answer may rest on. Thread-safe, without a lock.

    Where nothing at all has changed nobody has to look at what one answer rests on. Whoever changes something counts
    afterwards, and whoever looks reads the number before: a change that comes between is seen by the next.
    """

    view: View
    book: Book
    unreported: Unreported

    def changes(self) -> int:
        """Another number whenever something has changed that an answer may rest on."""
        return self.view.changes + self.unreported.changes + self.book.changes

    def stand(self, ref: BalanceRef) -> Stand:
        """How the balance is known now."""
        return (
            ref,
            self.view.hint(ref),
            self.unreported.of(ref),
            self.book.held(ref),
            self.book.has_share(ref),
        )

    def holds(self, basis: Basis, now: float) -> bool:
        """Would the same be decided now? The caller has looked whether the view is LIVE."""
        if now >= basis.until:
            return False
        changes = self.changes()
        if basis.seen == changes:
            return True
        if not self.view.is_current(basis.customer_id, basis.compiled):
            return False
        if basis.subject_id and self.view.subject(basis.subject_id) is not basis.subject:
            return False
        for ref, hint, outstanding, held, has_share in basis.balances:
            if (
                self.view.hint(ref) is not hint
                or self.unreported.of(ref) != outstanding
                or self.book.held(ref) != held
                or self.book.has_share(ref) != has_share
            ):
                return False
        basis.seen = changes
        return True
