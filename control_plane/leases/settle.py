"""What leases do to their grants: what comes back, what closes, what is quarantined or presumed. Balances and
leases are locked.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from control_plane.leases.rows import CLOSED, OPEN, PRESUMED, QUARANTINED, LeaseRow, Slice
from control_plane.ledger.facts import came_free
from control_plane.ledger.holding import Vault
from control_plane.ledger.rows import GrantRow


class Freed:
    """Collects what comes back to grants in one transaction, so that each window is looked at once."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self._touched: defaultdict[str, dict[str, GrantRow]] = defaultdict(dict)

    async def load(self, leases: Iterable[LeaseRow]) -> None:
        """Reads the grants that these leases were taken from. Their balances are locked."""
        await self.vault.load_grants({piece.grant_id for lease in leases for piece in lease.slices})

    def give_back(self, lease: LeaseRow, amount: int) -> None:
        """Applies a return: to the grants that gave, whatever the lease's state but closed."""
        for grant, piece in self._grants(lease, lease.give_back(amount)):
            self._take_off(lease.state, grant, piece.amount)
            grant.put(piece.amount, now=self.vault.now)
            self._touched[lease.balance_id][grant.id] = grant

    def close(self, lease: LeaseRow) -> None:
        """Gives back all that is unsettled, and moves what was spent to `spent`."""
        if lease.state == CLOSED:
            return
        self.give_back(lease, lease.unsettled)
        if lease.state != PRESUMED:  # its spent part moved when it was presumed
            for grant, piece in self._grants(lease, lease.spent_slices()):
                self._take_off(lease.state, grant, piece.amount)
                grant.spent += piece.amount
        lease.state = CLOSED

    def quarantine(self, lease: LeaseRow) -> None:
        """Its time is over: nobody gets it, and its holder may still settle it."""
        assert lease.state == OPEN, "only an open lease is quarantined"
        for grant, piece in self._grants(lease, lease.kept_slices()):
            grant.leased -= piece.amount
            grant.quarantined += piece.amount
        lease.state = QUARANTINED

    def presume(self, lease: LeaseRow) -> None:
        """Its holder stayed silent: what is unsettled counts as spent until the truth arrives."""
        for grant, piece in self._grants(lease, lease.unsettled_slices()):
            self._take_off(lease.state, grant, piece.amount)
            grant.presumed += piece.amount
            self.vault.held[lease.balance_id].because(grant, "presume")
        for grant, piece in self._grants(lease, lease.spent_slices()):
            self._take_off(lease.state, grant, piece.amount)
            grant.spent += piece.amount
        lease.state = PRESUMED

    def truth(self, lease: LeaseRow, paid: Sequence[Slice]) -> None:
        """Usage of a presumed lease has arrived: these slices were spent indeed."""
        for grant, piece in self._grants(lease, paid):
            grant.presumed -= piece.amount
            grant.spent += piece.amount
            self.vault.held[lease.balance_id].because(grant, "truth")

    async def pay(self, *, cause: str = "return") -> None:
        """What came free pays overage of facts first, then waiting cuts; the rest is available or ended."""
        for balance_id in sorted(self._touched):
            grants = self._touched[balance_id].values()
            await came_free(self.vault, self.vault.held[balance_id], list(grants), cause=cause)
        self._touched.clear()

    def _grants(self, lease: LeaseRow, pieces: Iterable[Slice]) -> Iterable[tuple[GrantRow, Slice]]:
        known = self.vault.held[lease.balance_id].grants
        return [(known[piece.grant_id], piece) for piece in pieces]

    @staticmethod
    def _take_off(state: str, grant: GrantRow, amount: int) -> None:
        match state:
            case "open":
                grant.leased -= amount
            case "quarantined":
                grant.quarantined -= amount
            case "presumed":
                grant.presumed -= amount
            case _:
                raise AssertionError(f"a {state} lease holds nothing")
