"""What follows, in the same transaction, when what a customer is entitled to may have changed."""

from control_plane.db.unit_of_work import ChangeKind, UnitOfWork
from control_plane.ledger.limits import apply_limits


async def customer_changed(uow: UnitOfWork, customer_id: str) -> None:
    """Balances get their new limits, holders are recalled, followers hear of it."""
    uow.change(ChangeKind.CUSTOMER, customer_id)
    await apply_limits(uow, [customer_id])
