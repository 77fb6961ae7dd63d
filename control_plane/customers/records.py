"""Customers and subjects: made, read, changed, suspended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from control_plane.customers.consequences import customer_changed
from control_plane.customers.tables import customers, subjects
from control_plane.db.unit_of_work import ChangeKind, UnitOfWork
from control_plane.errors import AlreadyExists, FieldProblem, Invalid, NotFound, VersionConflict

MAX_DEPTH = 8
"""How many ancestors a customer may have."""

CustomerRow = Row[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCustomer:
    customer_id: str
    name: str = ""
    parent_id: str | None = None
    external_ids: Mapping[str, str]


async def create_customer(uow: UnitOfWork, new: NewCustomer) -> CustomerRow:
    """Raises AlreadyExists, and Invalid for a parent that does not exist."""
    if new.parent_id is not None:
        await _check_parent(uow, new.customer_id, new.parent_id)
    try:
        async with uow.connection.begin_nested():
            await uow.connection.execute(
                insert(customers).values(
                    id=new.customer_id,
                    name=new.name,
                    parent_id=new.parent_id,
                    external_ids=dict(new.external_ids),
                    created_at=uow.now,
                    version=1,
                )
            )
    except IntegrityError as error:
        raise AlreadyExists("customer", new.customer_id) from error
    uow.change(ChangeKind.CUSTOMER, new.customer_id)
    return await get_customer(uow, new.customer_id)


async def get_customer(uow: UnitOfWork, customer_id: str) -> CustomerRow:
    """Raises NotFound."""
    found = await uow.connection.execute(select(customers).where(customers.c.id == customer_id))
    row = found.one_or_none()
    if row is None:
        raise NotFound("customer", customer_id)
    return row


async def lock_customer(uow: UnitOfWork, customer_id: str, *, version: int | None = None) -> CustomerRow:
    """The customer, locked until the commit. Raises NotFound, and VersionConflict if `version` is not its version."""
    found = await uow.connection.execute(
        select(customers).where(customers.c.id == customer_id).with_for_update()
    )
    row = found.one_or_none()
    if row is None:
        raise NotFound("customer", customer_id)
    if version is not None and row.version != version:
        raise VersionConflict("customer", customer_id, version=row.version)
    return row


async def list_customers(
    uow: UnitOfWork, *, after: str, limit: int, parent_id: str | None = None
) -> Sequence[CustomerRow]:
    """In the order of their ids, those after `after`."""
    wanted = select(customers).where(customers.c.id > after).order_by(customers.c.id).limit(limit)
    if parent_id is not None:
        wanted = wanted.where(customers.c.parent_id == parent_id)
    return (await uow.connection.execute(wanted)).all()


async def change_customer(
    uow: UnitOfWork, customer_id: str, values: Mapping[str, Any], *, version: int | None = None
) -> CustomerRow:
    """Sets `name`, `parent_id` or `external_ids`. Raises NotFound, VersionConflict, Invalid."""
    row = await lock_customer(uow, customer_id, version=version)
    parent_id = values.get("parent_id")
    if parent_id is not None:
        await _check_parent(uow, customer_id, parent_id)
    changed = {name: value for name, value in values.items() if getattr(row, name) != value}
    return await _change(uow, row, changed) if changed else row


async def suspend_customer(uow: UnitOfWork, customer_id: str, *, version: int | None = None) -> CustomerRow:
    """Nothing is allowed to it from now on. Again changes nothing."""
    row = await lock_customer(uow, customer_id, version=version)
    return row if row.suspended_at is not None else await _change(uow, row, {"suspended_at": uow.now})


async def resume_customer(uow: UnitOfWork, customer_id: str, *, version: int | None = None) -> CustomerRow:
    """Ends a suspension. Again changes nothing."""
    row = await lock_customer(uow, customer_id, version=version)
    return row if row.suspended_at is None else await _change(uow, row, {"suspended_at": None})


async def add_subject(uow: UnitOfWork, customer_id: str, subject_id: str) -> Row[Any]:
    """Registers who acts under the customer; again changes nothing. Raises NotFound; AlreadyExists: it is another's."""
    await lock_customer(uow, customer_id)
    try:
        async with uow.connection.begin_nested():
            await uow.connection.execute(
                insert(subjects).values(id=subject_id, customer_id=customer_id, created_at=uow.now)
            )
    except IntegrityError as error:
        row = await find_subject(uow, subject_id)
        if row is None or row.customer_id != customer_id:
            raise AlreadyExists("subject", subject_id) from error
        return row
    uow.change(ChangeKind.SUBJECT, subject_id)
    return (await uow.connection.execute(select(subjects).where(subjects.c.id == subject_id))).one()


async def find_subject(uow: UnitOfWork, subject_id: str) -> Row[Any] | None:
    return (await uow.connection.execute(select(subjects).where(subjects.c.id == subject_id))).one_or_none()


async def list_subjects(uow: UnitOfWork, customer_id: str, *, after: str, limit: int) -> Sequence[Row[Any]]:
    """In the order of their ids, those after `after`. Raises NotFound for the customer."""
    await get_customer(uow, customer_id)
    wanted = (
        select(subjects)
        .where(subjects.c.customer_id == customer_id, subjects.c.id > after)
        .order_by(subjects.c.id)
        .limit(limit)
    )
    return (await uow.connection.execute(wanted)).all()


async def _change(uow: UnitOfWork, row: CustomerRow, values: Mapping[str, Any]) -> CustomerRow:
    await uow.connection.execute(
        update(customers).where(customers.c.id == row.id).values(**values, version=row.version + 1)
    )
    await customer_changed(uow, row.id)
    return await get_customer(uow, row.id)


async def _check_parent(uow: UnitOfWork, customer_id: str, parent_id: str) -> None:
    ancestor: str | None = parent_id
    for _ in range(MAX_DEPTH):
        if ancestor is None:
            return
        if ancestor == customer_id:
            raise Invalid(FieldProblem("parent_id", f"{customer_id!r} would be its own ancestor"))
        found = await uow.connection.execute(
            select(customers.c.id, customers.c.parent_id).where(customers.c.id == ancestor).with_for_update()
        )
        row = found.one_or_none()
        if row is None:
            raise Invalid(FieldProblem("parent_id", f"there is no customer {ancestor!r}"))
        ancestor = row.parent_id
    if ancestor is not None:
        raise Invalid(FieldProblem("parent_id", f"more than {MAX_DEPTH} ancestors"))
