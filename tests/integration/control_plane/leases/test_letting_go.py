"""A gauge's verdict ends with its session, as leases do, and not by a clock; on both databases."""

from datetime import timedelta

import pytest

from control_plane.db.unit_of_work import Database
from control_plane.leases.dead import DeadLeases, declare_dead
from control_plane.leases.returns import Uid
from control_plane.leases.settings import LeaseSettings, QuarantinePolicy
from control_plane.usage.dead_letters import Dead, DeadReason, bury
from control_plane.usage.records import Item
from control_plane.usage.report import replay_dead_letter
from control_plane.usage.sweep import forget, sweep
from purser.sync.v1 import session_pb2 as session
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import SETTINGS, Holder, check_books
from tests.integration.control_plane.leases.test_gauges import (
    ADD,
    REMOVE,
    SET,
    ask,
    give_up,
    standing,
    used,
    write,
)
from tests.integration.control_plane.leases.test_remote import SEATS, begun

RELEASING = LeaseSettings(quarantine_policy=QuarantinePolicy.RELEASE)


async def restarted(database: Database, old: Holder) -> Holder:
    """The next incarnation of its outbox."""
    new = Holder(database, outbox_id=old.outbox_id, incarnation_id="inc-2")
    await new.open((old.incarnation_id, old.last_seq))
    return new


async def removing(database: Database, clock: SteppedClock) -> Holder:
    """A sidecar that has booked ann, and was told that she may leave."""
    (holder,) = await begun(database, "one")
    await ask(holder, "ann", "a", clock())
    write(holder, "ann", "a", clock())
    await holder.upload()
    clock.advance(seconds=1)
    assert (await ask(holder, "ann", "r", clock(), need=0, adds=False, request_id="remove")).used == 0
    return holder


async def test_a_seat_waits_for_a_network_that_is_away(database: Database, clock: SteppedClock) -> None:
    """A seat that was acknowledged and can not be uploaded for days is given to nobody else: two are held of two."""
    one, two = await begun(database, "one", "two")
    at = clock()
    for who in ("ann", "bob"):
        assert (await ask(one, who, who, at)).allowed
        write(one, who, who, at)
    for hours in (0.1, 1, 25, 24 * 6):
        clock.advance(hours=hours)
        await sweep(database, SETTINGS)
        assert not (await ask(two, "cleo", f"c-{hours}", clock())).allowed
    assert not (await one.upload()).dead_letters
    stands = await standing(database)
    assert (stands.used, stands.presumed, stands.overage) == (2, 0, 0)
    await check_books(database)


async def test_a_closed_session_frees_what_came_to_nothing(database: Database, clock: SteppedClock) -> None:
    """All that it wrote is in the books: the seat whose event is among that stays, the other one is free."""
    (old,) = await begun(database, "one")
    assert (await ask(old, "ann", "a", clock())).allowed
    assert (await ask(old, "bob", "b", clock())).allowed
    write(old, "ann", "a", clock())
    new = await restarted(database, old)
    assert not (await new.close("inc-1", 1)).ended, "its event is not in the books yet"
    assert not (await ask(new, "cleo", "c", clock())).allowed
    await old.upload()
    assert (await new.close("inc-1", 1)).ended
    assert await used(database) == 1
    assert (await ask(new, "cleo", "d", clock())).allowed
    await check_books(database)


async def test_a_session_that_keeps_something_is_not_over(database: Database, clock: SteppedClock) -> None:
    """As long as it keeps a lease for an open hold its verdicts stand; the last close ends both."""
    (old,) = await begun(database, "one")
    assert (await ask(old, "ann", "a", clock())).allowed
    new = await restarted(database, old)
    assert not (await new.close("inc-1", 0, {"lse_held": 5})).ended
    assert await used(database) == 1
    assert (await new.close("inc-1", 0)).ended
    assert await used(database) == 0
    await check_books(database)


async def test_a_verdict_of_two_ends_with_both(database: Database, clock: SteppedClock) -> None:
    """A caller asked again through another sidecar: when the first one's session closes it still has the seat."""
    one, two = await begun(database, "one", "two")
    assert (await ask(one, "ann", "a", clock())).allowed
    assert (await ask(two, "ann", "a", clock())).allowed
    await (await restarted(database, one)).close("inc-1", 0)
    assert await used(database) == 1
    await (await restarted(database, two)).close("inc-1", 0)
    assert await used(database) == 0
    await check_books(database)


@pytest.mark.parametrize(("settings", "held"), [(SETTINGS, 1), (RELEASING, 0)])
async def test_silence_ends_by_policy(
    database: Database, clock: SteppedClock, settings: LeaseSettings, held: int
) -> None:
    """Nothing is heard of a sidecar for a day: a seat is presumed to be held, or, by the other policy, free."""
    (holder,) = await begun(database, "one")
    assert (await ask(holder, "ann", "a", clock(), settings=settings)).allowed
    clock.advance(hours=23, minutes=59)
    await sweep(database, settings)
    assert (await standing(database)).presumed == 0
    clock.advance(minutes=1)
    await sweep(database, settings)
    stands = await standing(database)
    assert (stands.used, stands.presumed, stands.spent) == (held, held, 0)
    await check_books(database)


async def test_the_truth_corrects_what_was_presumed(database: Database, clock: SteppedClock) -> None:
    """Its sidecar comes back with its disk: what it wrote is booked, what it did not write is free."""
    (old,) = await begun(database, "one")
    for who in ("ann", "bob"):
        await ask(old, who, who, clock())
    write(old, "ann", "ann", clock())
    clock.advance(hours=30)
    await sweep(database, SETTINGS)
    assert (await standing(database)).presumed == 2
    await old.upload()
    stands = await standing(database)
    assert (stands.spent, stands.presumed) == (1, 1)
    assert (await (await restarted(database, old)).close("inc-1", 1)).ended
    stands = await standing(database)
    assert (stands.spent, stands.presumed) == (1, 0)
    await check_books(database)


async def test_what_is_presumed_can_be_removed(database: Database, clock: SteppedClock) -> None:
    """Somebody who knows better says so: a removal ends a seat that is only presumed."""
    holder, other = await begun(database, "one", "two")
    await ask(holder, "ann", "a", clock())
    clock.advance(hours=30)
    await sweep(database, SETTINGS)
    write(other, "ann", "r", clock(), REMOVE, decided=False)
    await other.upload()
    stands = await standing(database)
    assert (stands.used, stands.presumed) == (0, 0)
    await check_books(database)


@pytest.mark.parametrize("settings", [SETTINGS, RELEASING])
async def test_an_acknowledged_removal_counts_when_it_arrives(
    database: Database, clock: SteppedClock, settings: LeaseSettings
) -> None:
    """Its event is on its way for days: whatever becomes of its verdict, nobody else gets the seat until then.
    From then on it is free.
    """
    holder = await removing(database, clock)
    write(holder, "ann", "r", clock(), REMOVE)
    for _ in range(3):
        clock.advance(hours=20)
        await sweep(database, settings)
        await forget(database, settings)
        assert await used(database) == 1
    async with database.begin() as uow:
        await declare_dead(uow, holder.name, DeadLeases.RELEASE)
    assert await used(database) == 1
    await holder.upload()
    assert await used(database) == 0
    await check_books(database)


@pytest.mark.parametrize("closes", [True, False])
async def test_a_removal_that_nobody_heard_of_is_undone(
    database: Database, clock: SteppedClock, closes: bool
) -> None:
    """The call failed, or its process died before it wrote anything: who was to leave still holds."""
    holder = await removing(database, clock)
    if closes:
        assert (await (await restarted(database, holder)).close("inc-1", 1)).ended
    else:
        await give_up(holder, "remove")
    assert await used(database) == 1
    await check_books(database)


@pytest.mark.parametrize("choice", list(DeadLeases))
async def test_a_dead_sidecars_seats(database: Database, clock: SteppedClock, choice: DeadLeases) -> None:
    """They stay taken when it is declared dead, unless somebody says that they are free; the event that comes after all
    is then beyond the limit.
    """
    dead, other = await begun(database, "one", "two")
    for who in ("ann", "bob"):
        assert (await ask(dead, who, who, clock())).allowed
        write(dead, who, who, clock())
    async with database.begin() as uow:
        declared = await declare_dead(uow, dead.name, choice)
    releases = choice is DeadLeases.RELEASE
    assert [(one.verdicts, one.amount) for one in declared.touched.values()] == [(2, 2)] * releases
    assert (await ask(other, "cleo", "c", clock())).allowed == releases
    await dead.upload()
    assert (await standing(database)).overage == releases
    await check_books(database)


async def test_a_release_leaves_what_is_booked(database: Database, clock: SteppedClock) -> None:
    """Verdicts that raised a holder, and lowered it, are let go: it holds what its booked event says."""
    (holder,) = await begun(database, "one")
    await ask(holder, "team", "two", clock(), need=2, adds=False)
    write(holder, "team", "two", clock(), SET, 2)
    await holder.upload()
    for key, need in (("one", 1), ("again", 2), ("less", 0)):
        clock.advance(seconds=1)
        assert (await ask(holder, "team", key, clock(), need=need, adds=False)).allowed
    async with database.begin() as uow:
        await declare_dead(uow, holder.name, DeadLeases.RELEASE)
    stands = await standing(database)
    assert stands.used == 2
    await check_books(database)


async def test_a_seat_in_the_dead_letters_is_kept(database: Database, clock: SteppedClock) -> None:
    """It was acknowledged: its session's end leaves it taken, as presumed, and the replay books it."""
    (old,) = await begun(database, "one")
    assert (await ask(old, "ann", "a", clock())).allowed
    record = write(old, "ann", "a", clock(), ADD)
    item = Item(Uid("one", "inc-1", 1), record)
    async with database.begin() as uow:
        await bury(uow, [Dead(item, DeadReason.UNBOOKABLE, "for now")])
    assert (await (await restarted(database, old)).close("inc-1", 0)).ended
    stands = await standing(database)
    assert (stands.used, stands.presumed) == (1, 1)
    async with database.begin() as uow:
        assert not (await replay_dead_letter(uow, item.name)).dead
    stands = await standing(database)
    assert (stands.used, stands.presumed) == (1, 0)
    await check_books(database)


async def test_a_request_that_was_given_up_comes_too_late(database: Database, clock: SteppedClock) -> None:
    """It was overtaken on its way by its own giving up: it is refused, or nobody would ever let go of the seat."""
    (holder,) = await begun(database, "one")
    await give_up(holder, "late")
    late = await holder.acquire(
        SEATS, 1, holder_id="ann", adds=True, idempotency_key="a", occurred_at=clock(), request_id="late"
    )
    assert late.refusal.kind == session.REFUSAL_KIND_FAILED
    assert await used(database) == 0
    assert (await ask(holder, "ann", "a", clock() + timedelta(seconds=1))).allowed
    await check_books(database)


async def test_who_loses_a_key_loses_its_seat(database: Database, clock: SteppedClock) -> None:
    """One key was used for two holders, through two sidecars: the second one's event ends in the dead letters, and its
    seat is free at once, while its sidecar lives.
    """
    one, two = await begun(database, "one", "two")
    for holder, who in ((one, "ann"), (two, "bob")):
        assert (await ask(holder, who, "k", clock())).allowed
        write(holder, who, "k", clock())
    await one.upload()
    assert await used(database) == 2, "it can still come to something"
    (dead,) = (await two.upload()).dead_letters
    assert dead.reason.startswith("KEY_CONFLICT")
    stands = await standing(database)
    assert (stands.used, stands.spent) == (1, 1)
    assert (await ask(two, "cleo", "c", clock())).allowed
    await check_books(database)


async def test_the_seat_of_a_lost_key_stays_with_others(database: Database, clock: SteppedClock) -> None:
    """Another sidecar was told of that verdict, too: it is over when both have lost the key."""
    one, two, three = await begun(database, "one", "two", "three")
    for holder, who in ((one, "ann"), (two, "bob"), (three, "bob")):
        assert (await ask(holder, who, "k", clock())).allowed
        write(holder, who, "k", clock())
    await one.upload()
    for holder, left in ((two, 2), (three, 1)):
        assert (await holder.upload()).dead_letters
        assert await used(database) == left
        await check_books(database)


async def test_a_key_is_lost_to_what_moved_no_gauge(database: Database, clock: SteppedClock) -> None:
    """The same event was reported before, as a fact of an instant when nobody had seats: the duplicate's is free."""
    one, two = await begun(database, "one", "two")
    early = clock() - timedelta(hours=1)
    assert (await ask(two, "ann", "k", early)).allowed
    write(one, "ann", "k", early, decided=False)
    write(two, "ann", "k", early).usage.decided_at.FromDatetime(clock())
    await one.upload()
    assert await used(database) == 1
    assert (await two.upload()).duplicate_seqs == [1]
    assert await used(database) == 0
    await check_books(database)


async def test_who_wins_a_key_keeps_its_seat(database: Database, clock: SteppedClock) -> None:
    """A duplicate, and a conflict in the winner's own batch, take nothing off what is booked."""
    one, two = await begun(database, "one", "two")
    for holder in (one, two):
        assert (await ask(holder, "ann", "k", clock())).allowed
        write(holder, "ann", "k", clock())
    write(one, "ann", "k", clock(), quantity=2)
    assert [dead.seq for dead in (await one.upload()).dead_letters] == [2]
    assert (await two.upload()).duplicate_seqs == [1]
    stands = await standing(database)
    assert (stands.used, stands.spent) == (1, 1)
    await check_books(database)
