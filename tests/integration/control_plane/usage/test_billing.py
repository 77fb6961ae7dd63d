"""What is billed, and budgets up the hierarchy, on both databases."""

from sqlalchemy import func, select

from control_plane.customers.records import add_subject
from control_plane.db.unit_of_work import Database
from control_plane.ledger.balances import standings
from control_plane.ledger.tables import postings
from control_plane.usage.tables import event_costs
from purser.sync.v1 import usage_pb2 as sync
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import Holder, check_books, ref
from tests.integration.control_plane.leases.test_acquire import allotted
from tests.integration.control_plane.setting import make_customer, publish_text, subscribe

CATALOG = """\
purser: catalog/v1
units:
  usd: {name: US dollar, kind: currency, scale: 9}
meters:
  tokens: {event: llm, aggregate: sum, of: [input_tokens, output_tokens]}
rate_cards:
  llm:
    event: llm
    unit: usd
    prices:
      - {dimension: input_tokens,  per: 1000, price: "0.003"}
      - {dimension: output_tokens, per: 1000, price: "0.012"}
features:
  chat: {type: metered, event: llm, rate_card: llm}
plans:
  payg:   {entitlements: {chat: {charge: llm, pay: in_arrears}}}
  hybrid: {entitlements: {chat: {included: {meter: tokens, amount: 1000, every: P1M}, overage: {allow: {charge: llm}}}}}
  strict:
    entitlements: {chat: {charge: llm}}
    budgets:
      - {name: house, scope: parent, unit: usd, limit: "1", every: P1D, anchor: calendar}
      - {name: daily, scope: subject, unit: usd, limit: "0.5", every: P1D, anchor: calendar}
"""
USED = {"input_tokens": "412", "output_tokens": "1083"}


async def accounts(database: Database) -> dict[str, int]:
    """Every account's balance, grants left out."""
    async with database.read() as uow:
        query = (
            select(postings.c.account, func.sum(postings.c.amount))
            .where(postings.c.grant_id.is_(None), ~postings.c.account.like("issued:%"))
            .group_by(postings.c.account)
        )
        return {account: int(amount) for account, amount in await uow.connection.execute(query)}


async def test_a_fact_in_arrears_is_billed_to_the_last_digit(database: Database, clock: SteppedClock) -> None:
    """412 in and 1,083 out cost 0.014232: receivable and revenue say so."""
    await publish_text(database, CATALOG)
    await make_customer(database, "acme")
    await subscribe(database, "acme", "payg")
    holder = Holder(database)
    await holder.open()
    holder.report_fact("acme", at=clock(), name="llm", measures=USED)
    assert not (await holder.upload()).dead_letters
    assert await accounts(database) == {"receivable:acme": 14_232_000, "revenue:chat": -14_232_000}
    await check_books(database)


async def test_what_an_allowance_does_not_cover_is_billed(database: Database, clock: SteppedClock) -> None:
    """1,000 tokens left of 1,495: 495 / 1495 of the cost, rounded once."""
    await publish_text(database, CATALOG)
    await make_customer(database, "acme")
    await subscribe(database, "acme", "hybrid")
    holder = Holder(database)
    await holder.open()
    holder.report_fact("acme", at=clock(), name="llm", measures=USED)
    assert not (await holder.upload()).dead_letters
    found = await accounts(database)
    assert found["receivable:acme"] == 4_712_268
    assert found["usage:chat"] == 1_495_000_000
    async with database.read() as uow:
        (cost,) = (await uow.connection.execute(select(event_costs))).all()
        assert (cost.amount, cost.billed) == (14_232_000, 4_712_268)
    await check_books(database)


async def test_a_decided_cost_is_booked_as_it_was_decided(database: Database, clock: SteppedClock) -> None:
    """The sidecar's own cost and billed part are posted, with the card and its revision."""
    await publish_text(database, CATALOG)
    await make_customer(database, "acme")
    await subscribe(database, "acme", "payg")
    holder = Holder(database)
    await holder.open()
    cost = sync.Cost(
        feature="chat",
        rate_card="llm",
        catalog_revision=1,
        unit="usd",
        amount=14_232_000,
        exact="0.014232",
        billed=14_232_000,
        billed_exact="0.014232",
    )
    record = holder.consume(ref("acme"), at=clock(), name="llm", measures=USED, costs=[cost])
    del record.usage.charges[:]
    assert not (await holder.upload()).dead_letters
    assert await accounts(database) == {"receivable:acme": 14_232_000, "revenue:chat": -14_232_000}
    async with database.read() as uow:
        (line, _) = (await uow.connection.execute(select(postings))).all()
        assert (line.rate_card, line.catalog_revision) == ("llm", 1)


async def test_budgets_of_parent_and_subject_are_leased_and_counted(
    database: Database, clock: SteppedClock
) -> None:
    """A child's plan budgets its parent and each subject: leases stay within both, facts count in both."""
    await publish_text(database, CATALOG)
    await make_customer(database, "house")
    await make_customer(database, "acme", "house")
    await subscribe(database, "acme", "strict")
    async with database.begin() as uow:
        await add_subject(uow, "acme", "ada")
    holder = Holder(database)
    await holder.open()
    house, daily = ref("house", "budget:house"), ref("acme", "budget:daily", "ada")
    assert allotted(await holder.acquire(house, 900_000_000)) == 900_000_000
    assert allotted(await holder.acquire(house, 200_000_000)) == 0
    assert allotted(await holder.acquire(daily, 400_000_000)) == 400_000_000
    holder.report_fact("acme", at=clock(), name="llm", subject_id="ada", measures=USED)
    assert not (await holder.upload()).dead_letters
    async with database.read() as uow:
        used = {(one.row.customer_id, one.row.name): one.used for one in await standings(uow, "acme")}
    assert used["house", "budget:house"] == 14_232_000
    assert used["acme", "budget:daily"] == 14_232_000
    await check_books(database)
