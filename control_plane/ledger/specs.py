"""By what spec a balance stands at an instant: the customer's own, or that of a child whose plan budgets its
parent.
"""

from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import select

from control_plane.customers import entitled
from control_plane.customers.tables import customers
from control_plane.db.unit_of_work import UnitOfWork
from sidecar.engine.catalog import BalanceScope
from sidecar.engine.entitlement import BalanceSpec, Entitlements
from sidecar.engine.values import BalanceRef, Reason

_CHILDREN_ASKED: Final = 200


class Found(NamedTuple):
    """A balance's spec, and the entitlements that it is from."""

    spec: BalanceSpec
    entitlements: Entitlements


async def find_spec(
    uow: UnitOfWork, ref: BalanceRef, at: datetime, *, own: Entitlements | None = None
) -> Found | None:
    """None: nobody is entitled to this balance at that instant. `own`: the customer's entitlements, where they were
    read already.
    """
    own = own or await entitled.load(uow, ref.customer_id, at)
    found = _of_own(own, ref)
    if found is not None or ref.subject_id or not ref.balance.startswith("budget:"):
        return found
    children = (
        select(customers.c.id)
        .where(customers.c.parent_id == ref.customer_id)
        .order_by(customers.c.id)
        .limit(_CHILDREN_ASKED)
    )
    for child_id in (await uow.connection.execute(children)).scalars():
        child = await entitled.load(uow, child_id, at)
        spec = child.balances.get(ref.balance)
        if child.standing is Reason.OK and spec is not None and spec.scope is BalanceScope.PARENT:
            return Found(spec, child)
    return None


def _of_own(own: Entitlements, ref: BalanceRef) -> Found | None:
    if own.standing is not Reason.OK:
        return None
    spec = own.balances.get(ref.balance)
    scope = BalanceScope.SUBJECT if ref.subject_id else BalanceScope.CUSTOMER
    return Found(spec, own) if spec is not None and spec.scope is scope else None
