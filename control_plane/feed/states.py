"""States as messages of purser.sync.v1, read from the database."""

from collections.abc import Collection, Mapping
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from control_plane.catalog.revisions import current_revision, encoded_catalog
from control_plane.customers.entitled import owners_of, read_customers
from control_plane.db.types import to_micros
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.feed.hints import hints_of
from purser.sync.v1.feed_pb2 import CatalogRevision, CustomerState, SubjectState, SubscriptionState
from sidecar.engine.customer import Customer, Subscription


def timestamp(at: datetime) -> Timestamp:
    """The same instant on the wire, exact to the microsecond."""
    seconds, micros = divmod(to_micros(at), 1_000_000)
    return Timestamp(seconds=seconds, nanos=micros * 1000)


def _optional(at: datetime | None) -> Timestamp | None:
    return None if at is None else timestamp(at)


async def customer_states(uow: UnitOfWork, customer_ids: Collection[str]) -> Mapping[str, CustomerState]:
    """One for every id; those that do not exist say so."""
    found = await read_customers(uow, customer_ids)
    states = {customer_id: _customer_state(customer) for customer_id, customer in found.items()}
    for customer_id, several in (await hints_of(uow, [one for one in found if found[one].exists])).items():
        states[customer_id].hints.extend(several)
    return states


async def subject_states(uow: UnitOfWork, subject_ids: Collection[str]) -> Mapping[str, SubjectState]:
    """One for every id; those that do not exist have no customer."""
    found = await owners_of(uow, subject_ids)
    wanted = sorted(set(subject_ids))
    return {name: SubjectState(subject_id=name, customer_id=found.get(name, "")) for name in wanted}


async def catalog_state(uow: UnitOfWork, revision: int) -> CatalogRevision:
    """Raises NotFound."""
    return CatalogRevision(
        revision=revision,
        document=await encoded_catalog(uow, revision),
        current=revision == await current_revision(uow),
    )


def catalogs_of(states: Collection[CustomerState]) -> set[int]:
    """The catalog revisions that these states refer to."""
    return {held.catalog_revision for state in states for held in state.subscriptions}


def _customer_state(customer: Customer) -> CustomerState:
    return CustomerState(
        customer_id=customer.customer_id,
        exists=customer.exists,
        parent_id=customer.parent_id,
        suspended=customer.suspended,
        subscriptions=[_subscription_state(subscription) for subscription in customer.subscriptions],
    )


def _subscription_state(held: Subscription) -> SubscriptionState:
    return SubscriptionState(
        subscription_id=held.subscription_id,
        plan=held.plan,
        catalog_revision=held.catalog_revision,
        state=held.state.value,
        starts_at=timestamp(held.starts_at),
        ends_at=_optional(held.ends_at),
        anchor_at=timestamp(held.anchor_at),
        trial_ends_at=_optional(held.trial_ends_at),
        past_due_since=_optional(held.past_due_since),
        on_past_due=str(held.on_past_due) if held.on_past_due is not None else "",
        add_ons=held.add_ons,
    )
