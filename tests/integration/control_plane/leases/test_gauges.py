"""Gauges: a verdict holds its seat until its event is booked or it is let go; on both databases."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from control_plane.db.unit_of_work import Database
from control_plane.ledger.balances import Standing, standings
from control_plane.usage.sweep import sweep
from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import usage_pb2 as usage
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import SETTINGS, Holder, acquiring, check_books
from tests.integration.control_plane.leases.test_remote import SEATS, begun

ADD, REMOVE, SET = usage.GAUGE_CHANGE_ADD, usage.GAUGE_CHANGE_REMOVE, usage.GAUGE_CHANGE_SET


async def ask(holder: Holder, who: str, key: str, at: datetime, **want: Any) -> session.Verdict:
    """Asks for a seat, by default one more holder."""
    need = want.pop("need", 1)
    want.setdefault("adds", True)
    answer = await holder.acquire(SEATS, need, holder_id=who, idempotency_key=key, occurred_at=at, **want)
    return answer.verdict


def write(
    holder: Holder,
    who: str,
    key: str,
    at: datetime,
    change: Any = ADD,
    quantity: int = 1,
    *,
    decided: bool = True,
    by_verdict: bool = True,
) -> sync.Record:
    """Writes the event of a verdict, one that was decided without one, or a fact."""
    fields: dict[str, Any] = {"holder_id": who, "gauge_change": change, "gauge_feature": "seats", "name": ""}
    if change != REMOVE:
        fields["measures"] = {"quantity": str(quantity)}
    if not decided:
        return holder.report_fact("acme", at=at, key=key, **fields)
    record = holder.consume(SEATS, at=at, key=key, **fields)
    record.usage.charges[0].feature = "seats"
    record.usage.by_verdict = by_verdict
    return record


async def give_up(holder: Holder, *request_ids: str) -> None:
    """Says that what these requests were told came to nothing."""
    holder.requests += 1
    request = session.AcquireLeasesRequest(
        holder=holder.name,
        epoch=holder.epoch,
        request_id=f"up-{holder.incarnation_id}-{holder.requests}",
        given_up=[session.GivenUp(ref=SEATS, request_id=name) for name in request_ids],
    )
    await acquiring(holder.database, SETTINGS).acquire(request)


async def standing(database: Database) -> Standing:
    async with database.read() as uow:
        (found,) = [one for one in await standings(uow, "acme") if one.row.name == "gauge:seats"]
        return found


async def used(database: Database) -> int:
    return (await standing(database)).used


async def test_a_booked_verdict_stays(database: Database, clock: SteppedClock) -> None:
    """Once its event is in the books a seat is held for good."""
    (holder,) = await begun(database, "one")
    assert (await ask(holder, "ann", "a", clock())).allowed
    write(holder, "ann", "a", clock())
    assert not (await holder.upload()).dead_letters
    clock.advance(days=2)
    await sweep(database, SETTINGS)
    assert await used(database) == 1
    await check_books(database)


async def test_a_verdict_is_given_up_at_once(database: Database, clock: SteppedClock) -> None:
    """A sidecar says that a verdict came to nothing: the seat is free. Said twice, or of an unknown request, it changes
    nothing.
    """
    (holder,) = await begun(database, "one")
    await ask(holder, "ann", "a", clock(), request_id="first")
    await ask(holder, "bob", "b", clock(), request_id="second")
    for name in ("second", "second", "other"):
        await give_up(holder, name)
    assert await used(database) == 1
    assert (await ask(holder, "cleo", "c", clock())).allowed


async def test_who_repeats_a_key_keeps_its_verdict(database: Database, clock: SteppedClock) -> None:
    """The first call did not hear its verdict and gives it up, late: the second, with the same key, has heard it."""
    (holder,) = await begun(database, "one")
    await ask(holder, "ann", "a", clock(), request_id="first")
    assert (await ask(holder, "ann", "a", clock(), request_id="second")).allowed
    for name, left in (("first", 1), ("second", 0)):
        await give_up(holder, name)
        assert await used(database) == left


async def test_a_removal_says_what_it_frees(database: Database, clock: SteppedClock) -> None:
    """The verdict's `used` is as if it were booked; the balance's counts what it frees until it is. A repeat says the
    same.
    """
    (holder,) = await begun(database, "one")
    for who in ("ann", "bob"):
        added = await holder.acquire(
            SEATS, 1, holder_id=who, adds=True, idempotency_key=who, occurred_at=clock()
        )
        assert added.verdict.frees == 0
        assert added.hint.used == added.verdict.used
        write(holder, who, who, clock())
    await holder.upload()
    for _ in range(2):
        removed = await holder.acquire(SEATS, 0, holder_id="bob", idempotency_key="r", occurred_at=clock())
        assert (removed.verdict.used, removed.verdict.frees, removed.hint.used) == (1, 1, 2)
    write(holder, "bob", "r", clock(), REMOVE)
    await holder.upload()
    assert await used(database) == 1


async def test_verdicts_that_are_not_booked_add_up(database: Database, clock: SteppedClock) -> None:
    """A holder is removed, again, added and removed before anything is booked: what hints count, less what the verdicts
    free, is what stands once all are; whoever else asks is told what his own come to.
    """
    (holder,) = await begun(database, "one")
    other = Holder(database, outbox_id="outbox-b", incarnation_id="inc-b")
    await other.open()
    await ask(holder, "bob", "a", clock())
    write(holder, "bob", "a", clock())
    await holder.upload()
    freed = 0
    for key, add, stands in (("1", False, 0), ("2", False, 0), ("3", True, 1), ("4", False, 0)):
        said = await holder.acquire(
            SEATS, int(add), holder_id="bob", adds=add, idempotency_key=key, occurred_at=clock()
        )
        freed += said.verdict.frees
        assert (said.hint.used, said.hint.used - freed) == (1, stands)
    said = await other.acquire(SEATS, 1, holder_id="bob", adds=True, idempotency_key="b", occurred_at=clock())
    assert (said.hint.used, said.verdict.frees) == (1, 0)


async def test_the_same_key_is_the_same_verdict(database: Database, clock: SteppedClock) -> None:
    """A retry, through whichever sidecar, takes no second seat, is allowed when the gauge is full by now, and when it
    gives up what it asked for the first one's seat stays.
    """
    one, two = await begun(database, "one", "two")
    assert (await ask(one, "ann", "a", clock())).allowed
    assert (await ask(one, "bob", "b", clock())).allowed
    again = await ask(two, "ann", "a", clock(), request_id="again")
    assert (again.allowed, again.used) == (True, 2)
    await give_up(two, "again")
    assert await used(database) == 2
    write(one, "ann", "a", clock())
    await one.upload()
    write(one, "ann", "r", clock() + timedelta(seconds=1), REMOVE)
    await one.upload(2)
    assert (await ask(two, "ann", "a", clock() + timedelta(seconds=2))).used == 1, "that key is in the books"


async def test_another_content_under_a_key_is_no_repeat(database: Database, clock: SteppedClock) -> None:
    """A key that stands for one seat does not let fifty through, nor an ADD where it stands for a SET; the same may be
    repeated.
    """
    one, two = await begun(database, "one", "two")
    assert (await ask(one, "ann", "k", clock(), adds=False)).allowed
    for need, adds in ((50, False), (2, False), (1, True)):
        said = await two.acquire(
            SEATS, need, holder_id="ann", adds=adds, idempotency_key="k", occurred_at=clock()
        )
        assert not said.verdict.allowed
        assert said.refusal.kind == session.REFUSAL_KIND_EXHAUSTED
        assert "key" in said.refusal.message
    assert (await ask(two, "ann", "k", clock(), adds=False)).allowed
    write(one, "ann", "k", clock(), SET)
    await one.upload()
    assert not (await ask(two, "ann", "k", clock(), need=50, adds=False)).allowed, "it is in the books by now"
    assert (await ask(two, "ann", "k", clock(), adds=False)).allowed
    assert await used(database) == 1
    await check_books(database)


async def test_a_verdict_is_not_that_of_another_content(database: Database, clock: SteppedClock) -> None:
    """Who wins a key with other content than the verdict's was not let through by it: the event stands at its own
    instant, before the removal that the verdict came after, and the verdict is over.
    """
    one, two = await begun(database, "one", "two")
    early = clock()
    clock.advance(seconds=10)
    write(one, "ann", "r", clock(), REMOVE, decided=False)
    await one.upload()
    assert (await ask(one, "ann", "k", early, adds=False)).used == 1
    write(two, "ann", "k", early, SET, 50)
    assert not (await two.upload()).dead_letters
    assert await used(database) == 0
    write(one, "ann", "k", early, SET)
    assert (await one.upload()).dead_letters[0].reason.startswith("KEY_CONFLICT")
    assert await used(database) == 0
    await check_books(database)


async def test_an_event_after_its_verdict_was_let_go(database: Database, clock: SteppedClock) -> None:
    """It was acknowledged after all: it counts, and what is beyond the limit shows as overage."""
    one, two = await begun(database, "one", "two")
    at = clock()
    for who in ("ann", "bob"):
        assert (await ask(one, who, who, at, request_id=who)).allowed
        write(one, who, who, at)
        await give_up(one, who)
    assert (await ask(two, "cleo", "c", clock())).allowed
    assert not (await one.upload()).dead_letters
    stands = await standing(database)
    assert (stands.used, stands.granted, stands.overage) == (3, 2, 1)
    assert not (await ask(two, "dora", "d", clock())).allowed
    await check_books(database)


@pytest.mark.parametrize("is_given_up", [False, True])
async def test_a_request_that_comes_late_moves_nothing(
    database: Database, clock: SteppedClock, is_given_up: bool
) -> None:
    """Who left while the control plane was silent left then, whenever the request for it arrives: who comes meanwhile
    stays.
    """
    one, two = await begun(database, "one", "two")
    removed_at = clock()
    write(one, "ann", "r", removed_at, REMOVE, by_verdict=False)
    clock.advance(seconds=5)
    assert (await ask(two, "ann", "a", clock())).allowed
    write(two, "ann", "a", clock())
    clock.advance(seconds=5)
    assert (await ask(one, "ann", "r", removed_at, need=0, adds=False, request_id="late")).allowed
    if is_given_up:
        await give_up(one, "late")
    await two.upload()
    await one.upload()
    assert await used(database) == 1
    await check_books(database)


@pytest.mark.parametrize("change", [(REMOVE, 0), (SET, 0)])
async def test_what_is_let_go_is_free_once_that_is_booked(
    database: Database, clock: SteppedClock, change: tuple[Any, int]
) -> None:
    """A removal that comes to nothing leaves its holder where it was, and nobody has its seat."""
    one, two = await begun(database, "one", "two")
    for who in ("ann", "bob"):
        write(one, who, who, clock())
        assert (await ask(one, who, who, clock())).allowed
    await one.upload()
    clock.advance(seconds=1)
    left = await ask(one, "ann", "r", clock(), need=0, adds=False, request_id="removes")
    assert (left.allowed, left.used) == (True, 1)
    assert not (await ask(two, "cleo", "c", clock())).allowed
    await give_up(one, "removes")
    assert await used(database) == 2
    assert (await ask(one, "ann", "r2", clock(), need=0, adds=False)).used == 1
    write(one, "ann", "r2", clock(), *change)
    await one.upload()
    assert await used(database) == 1
    assert (await ask(two, "cleo", "c2", clock())).used == 2
    await check_books(database)


async def test_an_add_by_a_late_clock_counts(database: Database, clock: SteppedClock) -> None:
    """A sidecar whose clock is behind adds a holder that another one has just removed: the seat is taken, also once the
    event arrives.
    """
    ahead, behind = await begun(database, "ahead", "behind")
    assert (await ask(ahead, "ann", "a", clock())).used == 1
    late = clock()
    clock.advance(seconds=2)
    assert (await ask(ahead, "ann", "r", clock(), need=0, adds=False)).used == 0
    write(ahead, "ann", "r", clock(), REMOVE)
    await ahead.upload()
    for who in ("bob", "cleo"):
        assert (await ask(ahead, who, who, clock())).allowed
    assert not (await ask(behind, "ann", "b", late)).allowed, "both seats are taken"
    assert (await ask(ahead, "bob", "br", clock(), need=0, adds=False)).allowed
    write(ahead, "bob", "br", clock(), REMOVE)
    await ahead.upload()
    assert (await ask(behind, "ann", "b", late)).used == 2
    write(behind, "ann", "b", late)
    await behind.upload()
    await ahead.upload()
    assert await used(database) == 2
    await check_books(database)


FACTS = [("ann", SET, 3), ("ann", REMOVE, 0), ("ann", ADD, 1), ("ann", ADD, 2)]


@pytest.mark.parametrize("order", list(permutations(range(4)))[::4])
async def test_facts_converge(database: Database, clock: SteppedClock, order: Sequence[int]) -> None:
    """SET 3, REMOVE, ADD 1, ADD 2: two are held, in whatever order the facts arrive."""
    (holder,) = await begun(database, "one")
    for number in order:
        who, change, quantity = FACTS[number]
        at = clock() + timedelta(seconds=number)
        write(holder, who, f"k{number}", at, change, quantity, decided=False)
        assert not (await holder.upload(holder.last_seq)).dead_letters
        await check_books(database)
    assert await used(database) == 2


async def test_two_seats_for_ten_at_once(database: Database, clock: SteppedClock) -> None:
    """Ten ask at once through two sidecars: two are let in."""
    holders = await begun(database, "one", "two")
    asking = [ask(holders[n % 2], f"who-{n}", f"key-{n}", clock()) for n in range(10)]
    assert sum(verdict.allowed for verdict in await asyncio.gather(*asking)) == 2
    assert await used(database) == 2
