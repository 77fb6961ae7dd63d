"""The feed over real gRPC streams, on both databases."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import OperationalError

from control_plane.app import Running
from control_plane.customers.records import NewCustomer, create_customer
from control_plane.db.engine import create_engine
from control_plane.db.tables import feed, revisions
from control_plane.db.unit_of_work import ChangeKind, Database, UnitOfWork
from control_plane.leases.restored import AHEAD, mark_restored
from control_plane.leases.tables import recall_answers, recalls
from control_plane.ledger.identity import balance_id
from purser.sync.v1 import feed_pb2
from purser.sync.v1.session_pb2 import BalanceRef, Holder
from purser.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from sidecar.engine import values as engine
from tests.integration.control_plane.leases.holder import Holder as Spender
from tests.integration.control_plane.leases.holder import ref
from tests.integration.control_plane.serving import Follower, following, rest_of, serving
from tests.integration.control_plane.setting import CATALOG, make_customer, make_subscriber, publish_text


async def test_a_fresh_follower_gets_a_reset_and_a_snapshot(database_url: str) -> None:
    """Who holds no view hears why, and then the states of all it follows, unknown ids included."""
    async with serving(database_url) as control_plane:
        published = await publish_text(control_plane.database)
        await make_subscriber(control_plane.database, "acme")
        async with following(control_plane, "acme", "nobody") as follower:
            assert follower.messages[0].reset.generation == 1
            await follower.next()
            assert follower.revision == 3
            assert follower.customers["acme"].exists
            assert follower.customers["acme"].subscriptions[0].plan == "free"
            assert not follower.customers["nobody"].exists
            assert follower.catalogs[published.revision].current
            assert json.loads(follower.catalogs[published.revision].document)["purser"] == "catalog/v1"
            assert [hint.ref.balance for hint in follower.customers["acme"].hints] == ["allowance:api"]


async def test_unknown_ids_are_followed(database_url: str) -> None:
    """A subscribe of ids that do not exist is answered, and what they become later arrives."""
    async with serving(database_url) as control_plane, following(control_plane) as follower:
        await follower.subscribe("later", subjects=("ann",))
        await follower.until(lambda: "later" in follower.customers)
        assert not follower.customers["later"].exists
        assert follower.subjects["ann"].customer_id == ""
        async with rest_of(control_plane) as rest:
            await rest.post("/customers", json={"id": "later"})
            await rest.post("/customers/later/subjects", json={"id": "ann"})
        await follower.until(lambda: follower.customers["later"].exists)
        await follower.until(lambda: follower.subjects["ann"].customer_id == "later")


async def test_an_impossible_id_does_not_exist(postgres_url: str) -> None:
    """An id that no database could hold ends no stream: it is answered as one that does not exist."""
    async with serving(postgres_url) as control_plane, following(control_plane) as follower:
        await follower.subscribe("a\0b", subjects=("c\0d",))
        await follower.until(lambda: "a\0b" in follower.customers)
        assert not follower.customers["a\0b"].exists
        assert follower.subjects["c\0d"].customer_id == ""


@pytest.mark.parametrize("change", ["limit", "grant", "suspension", "past_due", "subject"])
async def test_a_change_arrives_well_within_a_second(database_url: str, change: str) -> None:
    """A published limit, a grant, a suspension, past due: in a connected stream in less than a second. A machine that
    is busy with something else may need another try.
    """
    async with serving(database_url) as control_plane:
        seconds = [await _seconds_until_it_arrives(control_plane, change, "acme")]
        while min(seconds) >= 1 and len(seconds) < 5:
            seconds.append(await _seconds_until_it_arrives(control_plane, change, f"again-{len(seconds)}"))
        assert min(seconds) < 1


async def _seconds_until_it_arrives(control_plane: Running, change: str, name: str) -> float:
    await publish_text(control_plane.database)
    await make_subscriber(control_plane.database, name, "paid")
    user = f"ann-of-{name}"
    async with following(control_plane, name) as follower, rest_of(control_plane) as rest:
        await follower.subscribe(subjects=(user,))
        await follower.until(lambda: user in follower.subjects)
        state = follower.customers
        began = time.monotonic()
        match change:
            case "limit":
                text = CATALOG.replace("limit: 100,", "limit: 7,")
                answer = await rest.post("/catalog/revisions?move=all", content=text)
                revision = answer.json()["revision"]
                await follower.until(lambda: state[name].subscriptions[0].catalog_revision == revision)
            case "grant":
                body = {"customer_id": name, "unit": "credit", "amount": "5"}
                answer = await rest.post("/grants", json=body)
                await follower.until(lambda: state[name].hints[0].granted == 5000)
            case "suspension":
                answer = await rest.post(f"/customers/{name}/suspend")
                await follower.until(lambda: state[name].suspended)
            case "past_due":
                path = f"/subscriptions/sub_{name}/payment-status"
                answer = await rest.post(path, json={"status": "past_due"})
                await follower.until(lambda: state[name].subscriptions[0].state == "past_due")
            case _:
                answer = await rest.post(f"/customers/{name}/subjects", json={"id": user})
                await follower.until(lambda: follower.subjects[user].customer_id == name)
        took = time.monotonic() - began
        assert follower.revision == answer.json()["revision"]
    return took


async def test_it_resumes_with_what_changed_meanwhile(database_url: str) -> None:
    """A follower that comes back gets a change from its revision, with what changed and nothing else."""
    async with serving(database_url) as control_plane:
        await publish_text(control_plane.database)
        await make_subscriber(control_plane.database, "acme")
        await make_subscriber(control_plane.database, "bolt")
        async with following(control_plane, "acme", "bolt") as first:
            await first.next()
        async with rest_of(control_plane) as rest:
            await rest.post("/customers/bolt/suspend")
            await rest.post("/customers", json={"id": "other"})
        async with following(control_plane, seen=first) as second:
            change = second.messages[0].change
            assert (change.from_revision, change.to_revision) == (first.revision, first.revision + 2)
            assert [state.customer_id for state in change.customers] == ["bolt"]
            assert list(change.catalogs) == []


async def test_balances_say_how_far_they_count(database_url: str) -> None:
    """Hints and states name the follower's last record that they count; so does a round in which no balance changed."""
    async with serving(database_url) as control_plane:
        wallet, holder = await _spending(control_plane, "acme")
        async with following(control_plane, "acme") as follower:
            hints = await _hints_after(follower, 1, lambda: _spend(holder, wallet))
            assert [(hint.ref.balance, hint.used) for hint in hints.hints] == [("wallet:credit", 100)]
            assert (hints.counted_through, hints.complete) == (1, True)
            await make_customer(control_plane.database, "unfollowed")
            hints = await _hints_after(follower, 2, lambda: _report(holder, "unfollowed"))
            assert (list(hints.hints), hints.counted_through, hints.complete) == ([], 2, True)
            await follower.subscribe("unfollowed")
            await follower.until(lambda: "unfollowed" in follower.customers)
            assert follower.messages[-1].snapshot.counted_through == 2


async def test_who_was_away_hears_of_balances_that_changed(database_url: str) -> None:
    """Usage is no change of the view; it is told all the same to a follower that resumes, and nothing else is."""
    async with serving(database_url) as control_plane:
        wallet, holder = await _spending(control_plane, "acme")
        await make_subscriber(control_plane.database, "bolt")
        async with following(control_plane, "acme", "bolt") as first:
            await first.until(lambda: "bolt" in first.customers)
        await _spend(holder, wallet)
        await asyncio.sleep(2.2)  # whoever was there has heard of it
        async with following(control_plane, seen=first) as second:
            await second.until(lambda: second.messages[-1].WhichOneof("message") == "hints")
            hints = second.messages[-1].hints
            used = {(hint.ref.customer_id, hint.ref.balance): hint.used for hint in hints.hints}
            assert used["acme", "wallet:credit"] == 100
            assert (hints.counted_through, hints.complete) == (1, True)


async def _spending(control_plane: Running, name: str) -> tuple[BalanceRef, Spender]:
    """A customer with a wallet, and who spends from it: the follower's own incarnation."""
    await publish_text(control_plane.database)
    await make_subscriber(control_plane.database, name, "paid")
    async with rest_of(control_plane) as rest:
        await rest.post("/grants", json={"customer_id": name, "unit": "credit", "amount": "5"})
    holder = Spender(control_plane.database, outbox_id="o1", incarnation_id="i1")
    await holder.open()
    return ref(name), holder


async def _spend(holder: Spender, wallet: BalanceRef) -> None:
    lease = (await holder.acquire(wallet, 500)).leases[0]
    holder.consume(wallet, (lease.lease_id, 100), at=datetime.now(UTC))
    assert not (await holder.upload()).dead_letters


async def _report(holder: Spender, customer_id: str) -> None:
    holder.report_fact(customer_id, at=datetime.now(UTC))
    await holder.upload(first=holder.last_seq)


async def _hints_after(
    follower: Follower, counted: int, happens: Callable[[], Awaitable[None]]
) -> feed_pb2.BalanceHints:
    await happens()
    await follower.until(lambda: follower.messages[-1].hints.counted_through == counted)
    return follower.messages[-1].hints


@pytest.mark.parametrize("cause", ["history", "generation", "future"])
async def test_it_starts_over_when_it_can_not_resume(database_url: str, cause: str) -> None:
    """History that is gone, another generation, a revision from the future: a reset, and then snapshots."""
    async with serving(database_url) as control_plane:
        database = control_plane.database
        await publish_text(database)
        await make_subscriber(database, "acme")
        async with following(control_plane, "acme") as first:
            await first.next()
        await make_customer(database, "one")
        await make_customer(database, "two")
        async with database.begin() as uow:
            if cause == "history":
                await uow.connection.execute(delete(feed).where(feed.c.revision <= first.revision + 1))
            elif cause == "generation":
                await uow.connection.execute(update(revisions).values(generation=2))
            else:
                first.revision += 100
        async with following(control_plane, seen=first) as second:
            assert second.messages[0].WhichOneof("message") == "reset"
            await second.next()
            assert second.customers["acme"].exists
            assert second.revision == 5


async def test_a_restore_resets_streams_that_are_open(database_url: str) -> None:
    """When the database was put back under a running stream, the stream starts over by itself."""
    async with serving(database_url) as control_plane:
        await publish_text(control_plane.database)
        await make_subscriber(control_plane.database, "acme")
        async with following(control_plane, "acme") as follower:
            await follower.next()
            async with control_plane.database.begin() as uow:
                await uow.connection.execute(update(revisions).values(generation=2, revision=2))
            await follower.until(lambda: follower.generation == 2)
            await follower.until(lambda: "acme" in follower.customers)
            assert follower.revision == 2


async def test_an_operators_word_reaches_streams_that_are_open(database_url: str) -> None:
    """`purser migrate --restored` under a running control plane: connected sidecars start over, and changes go on far
    ahead of what they have seen.
    """
    async with serving(database_url) as control_plane:
        await publish_text(control_plane.database)
        await make_subscriber(control_plane.database, "acme")
        other_process = Database(create_engine(database_url))
        async with following(control_plane, "acme") as follower:
            await follower.next()
            seen = follower.revision
            marked = await other_process.transact(mark_restored)
            await other_process.close()
            await follower.until(lambda: follower.generation == marked.generation)
            await follower.until(lambda: follower.revision == marked.revision)
            assert marked.revision >= seen + AHEAD
            await make_customer(control_plane.database, "next")
            await follower.until(lambda: follower.revision == marked.revision + 1)


async def test_heartbeats_carry_revision_and_clock(database_url: str) -> None:
    """Once a second, without any change: the revision and the database's time."""
    async with serving(database_url) as control_plane:
        await publish_text(control_plane.database)
        async with following(control_plane) as follower:
            beats: list[feed_pb2.Heartbeat] = []
            began = time.monotonic()
            while len(beats) < 3:
                message = await follower.next()
                if message.WhichOneof("message") == "heartbeat":
                    beats.append(message.heartbeat)
            assert time.monotonic() - began < 3.5
            assert {beat.revision for beat in beats} == {1}
            assert abs(beats[-1].now.ToDatetime().timestamp() - beats[0].now.ToDatetime().timestamp() - 2) < 1


async def test_heartbeats_do_not_wait_for_writes(sqlite_url: str) -> None:
    """While the disk stands still under somebody's transaction, followers hear that the control plane is there; what
    they have said is written afterwards.
    """
    async with serving(sqlite_url) as control_plane:
        database = control_plane.database
        wallet, _ = await _spending(control_plane, "acme")
        async with database.begin() as uow:
            values = {"revision": 1, "idle_only": True, "created_at": uow.now, "subject_id": ""}
            identity = balance_id(engine.BalanceRef("acme", "", wallet.balance))
            values |= {"balance_id": identity, "customer_id": "acme", "name": wallet.balance}
            await uow.connection.execute(insert(recalls).values(id="r1", **values))
        async with following(control_plane) as follower:
            async with database.begin():
                for seq in (7, 8):
                    recalled = feed_pb2.Recalled(recall_id="r1", last_seq=seq)
                    await follower.call.write(feed_pb2.FollowRequest(recalled=recalled))
                beats = 0
                while beats < 3:
                    beats += (await follower.next()).WhichOneof("message") == "heartbeat"
                await follower.call.done_writing()
            assert await follower.call.code() is grpc.StatusCode.OK
        async with database.read() as uow:
            answers = (await uow.connection.execute(select(recall_answers))).all()
        assert [(row.recall_id, row.last_seq) for row in answers] == [("r1", 8)]


async def test_what_can_not_be_written_now_is_written_later(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream goes on, and what its follower has said is not lost."""
    said: list[str] = []

    async def fails_once(_uow: object, *, recall_id: str, **_fields: object) -> None:
        said.append(recall_id)
        if len(said) == 1:
            raise OperationalError("insert", {}, Exception("the disk is full"))

    monkeypatch.setattr("control_plane.rpc.follow.answer_recall", fails_once)
    async with serving(sqlite_url) as control_plane, following(control_plane) as follower:
        for recall_id in ("r1", "r2"):
            recalled = feed_pb2.Recalled(recall_id=recall_id)
            await follower.call.write(feed_pb2.FollowRequest(recalled=recalled))
        await follower.until(lambda: len(said) == 3)
        assert said == ["r1", "r1", "r2"]


async def test_no_follower_misses_a_change(postgres_url: str) -> None:
    """Two replicas, many committers at once: every follower sees every customer, over an unbroken chain."""
    names = [f"c{number}" for number in range(120)]
    async with serving(postgres_url) as one, serving(postgres_url) as two:
        committers = [Database(create_engine(postgres_url, pool_size=10)) for _ in range(3)]

        async def commit(index: int, name: str) -> None:
            await make_customer(committers[index % 3], name)

        async with (
            following(one, *names, incarnation="a") as first,
            following(two, *names, incarnation="b") as second,
        ):
            await asyncio.gather(*(commit(index, name) for index, name in enumerate(names)))

            async def all_there(follower: Follower) -> None:
                await follower.until(lambda: sum(s.exists for s in follower.customers.values()) == len(names))
                await follower.until(lambda: follower.revision == len(names))

            await asyncio.gather(all_there(first), all_there(second))
        for database in committers:
            await database.close()


@pytest.mark.parametrize("is_locked", [True, False], ids=["as it is", "without its lock"])
async def test_a_revision_orders_commits(
    postgres_url: str, is_locked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that were handed out before the commits that they order would let a follower miss a change: whoever
    stands at the second has not heard of the first, and never will.
    """

    async def unlocked(uow: UnitOfWork) -> int:
        if uow._revision is None:
            async with uow._database.engine.begin() as connection:
                taken = update(revisions).values(revision=revisions.c.revision + 1)
                number: int = (await connection.execute(taken.returning(revisions.c.revision))).scalar_one()
                uow._revision = number
        return uow._revision

    if not is_locked:
        monkeypatch.setattr(UnitOfWork, "take_revision", unlocked)
    database = Database(create_engine(postgres_url))
    async with (
        serving(postgres_url) as one,
        following(one, "slow", "quick") as follower,
        asyncio.TaskGroup() as tasks,
    ):
        async with database.begin() as uow:
            await create_customer(uow, NewCustomer(customer_id="slow", parent_id=None, external_ids={}))
            await uow.seal()
            quick = tasks.create_task(make_customer(database, "quick"))
            if is_locked:
                assert await waits_for_a_lock(database)
            else:
                await follower.until(lambda: follower.revision == 2)
        await quick
        await make_customer(database, "last")
        await follower.until(lambda: follower.revision == 3)
        # Without it the second's number is there before its row, too: both may have been missed.
        assert follower.customers["quick"].exists or not is_locked
        assert follower.customers["slow"].exists is is_locked
    await database.close()


async def waits_for_a_lock(database: Database) -> bool:
    """Until some transaction does."""
    waiting = text(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with asyncio.timeout(10), database.engine.connect() as connection:
        while not (await connection.execute(waiting)).scalar():
            await connection.rollback()  # within a transaction the activity is as it was at the first look
            await connection.execute(text("SELECT pg_sleep(0.01)"))
    return True


async def test_customers_come_while_others_change(database_url: str) -> None:
    """Subscribing in the middle of changes neither breaks the chain nor leaves an old state behind."""
    names = [f"c{number}" for number in range(30)]
    async with serving(database_url) as control_plane:
        database = control_plane.database
        for name in names:
            await make_customer(database, name)

        async def rename() -> None:
            for number in range(60):
                async with database.begin() as uow:
                    uow.change(ChangeKind.CUSTOMER, names[number % len(names)])

        async with following(control_plane) as follower:
            changing = asyncio.create_task(rename())
            for name in names:
                await follower.subscribe(name)
                await follower.next()
            await changing
            await follower.until(lambda: set(follower.customers) == set(names))
            await follower.until(lambda: follower.revision == len(names) + 60)


@pytest.mark.parametrize(
    ("first", "field"),
    [
        (feed_pb2.FollowRequest(subscribe=feed_pb2.Subscribe()), "start"),
        (feed_pb2.FollowRequest(start=feed_pb2.Start()), "start.holder.outbox_id"),
    ],
)
async def test_a_stream_begins_with_start(sqlite_url: str, first: feed_pb2.FollowRequest, field: str) -> None:
    """Anything else is INVALID_ARGUMENT, with the field."""
    async with serving(sqlite_url) as control_plane:
        code, details = await _refused(control_plane, first)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert field in details


async def test_streams_end_when_the_process_stops(sqlite_url: str) -> None:
    """A follower is told that the process goes, at once, and not after the grace that calls have."""
    began = 0.0
    async with serving(sqlite_url, stop_seconds=30) as control_plane:
        channel = grpc.aio.insecure_channel(control_plane.grpc_address)
        call = SyncServiceStub(channel).Follow()
        start = feed_pb2.Start(holder=Holder(outbox_id="o", incarnation_id="i"))
        await call.write(feed_pb2.FollowRequest(start=start))
        await call.read()
        began = time.monotonic()
    assert time.monotonic() - began < timedelta(seconds=5).total_seconds()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(_read_to_the_end(call), 5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await channel.close()


async def _read_to_the_end(call: "grpc.aio.StreamStreamCall[Any, Any]") -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def _refused(control_plane: Running, first: feed_pb2.FollowRequest) -> tuple[grpc.StatusCode, str]:
    async with grpc.aio.insecure_channel(control_plane.grpc_address) as channel:
        call = SyncServiceStub(channel).Follow()
        await call.write(first)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call.read(), 5)
        return caught.value.code(), str(caught.value.details())
