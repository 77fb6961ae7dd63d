"""Ways to break Purser's promises, each of which the simulation must notice: what survives is a hole in its checks."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Final, NamedTuple
from unittest import mock

from sqlalchemy import delete

from control_plane.leases import acquire, quarantine, replies, sessions
from control_plane.leases.restored import Pause
from control_plane.leases.rows import OPEN, LeaseRow
from control_plane.leases.settle import Freed
from control_plane.leases.tables import lease_requests
from control_plane.ledger.rows import GrantRow
from control_plane.usage import keys
from purser.sync.v1 import session_pb2 as session
from sidecar.app import Sidecar, Surroundings
from sidecar.deciding.reserving.commits import Commits
from sidecar.leases import held
from sidecar.leases.keeper import Keeper
from sidecar.leases.requests import from_wire
from sidecar.leases.returning import Returning
from sidecar.outbox import keeping
from sidecar.outbox.port import OutboxFailed
from sidecar.outbox.sender import Sender
from sidecar.outbox.sqlite import SqliteOutbox
from sidecar.outbox.writer import GroupWriter
from tests.simulation.node import NodeClock
from tests.simulation.plane import BASE


class Sabotage(NamedTuple):
    """How the code is broken inside a block, and the faults under which that shows."""

    broken: Callable[[], AbstractContextManager[None]]
    kinds: tuple[str, ...]
    seed: int
    """Where to look first: it showed there once."""


SABOTAGES: Final[dict[str, Sabotage]] = {}


def sabotaged(name: str) -> AbstractContextManager[None]:
    """Breaks the code inside the block; an empty name: leaves it as it is."""
    return SABOTAGES[name].broken() if name else nullcontext()


def _sabotage(*kinds: str, seed: int = 0) -> Callable[[Callable[[], Iterator[None]]], None]:
    """Enters one under its name. No kinds: under none, or any."""

    def enter(make: Callable[[], Iterator[None]]) -> None:
        SABOTAGES[make.__name__] = Sabotage(contextmanager(make), kinds, seed)

    return enter


# The control plane


@_sabotage("silence", seed=2)
def expired_leases_given_back() -> Iterator[None]:
    """What an expired lease had left is free for others: its holder may have spent it."""
    real = quarantine._one

    def one(freed: Freed, lease: LeaseRow, *rest: Any) -> None:
        if lease.state == OPEN:
            freed.close(lease)
        else:
            real(freed, lease, *rest)

    with mock.patch.object(quarantine, "_one", one):
        yield


@_sabotage("vanish")
def quarantine_never_ends() -> Iterator[None]:
    """What a sidecar took with it is never booked, nor free."""
    real = quarantine._one

    def one(freed: Freed, lease: LeaseRow, *rest: Any) -> None:
        if lease.state == OPEN or not lease.unsettled:
            real(freed, lease, *rest)

    with mock.patch.object(quarantine, "_one", one):
        yield


@_sabotage("silence")
def no_replay_of_request_ids() -> Iterator[None]:
    """A repeated request is granted once more."""

    async def stored(*_: Any) -> None:
        return None

    async def store(uow: Any, holder: session.Holder, request_id: str, reply: bytes) -> None:
        await uow.connection.execute(delete(lease_requests).where(lease_requests.c.request_id == request_id))
        await replies.store_reply(uow, holder, request_id, reply)

    with mock.patch.object(acquire, "stored_reply", stored), mock.patch.object(acquire, "store_reply", store):
        yield


@_sabotage("kill", "silence", seed=53)
def no_epoch_fence() -> Iterator[None]:
    """An earlier incarnation acquires as before."""

    async def fetch(uow: Any, holder: session.Holder, _epoch: int) -> Any:
        row = await sessions.lock_session(uow, holder)
        if row is None:
            raise sessions.Superseded
        return row

    with mock.patch.object(acquire, "acquiring_session", fetch):
        yield


@_sabotage("put_back", seed=40)
def rolled_back_disk_goes_on() -> Iterator[None]:
    """A disk that was put back is taken for what it was."""
    with mock.patch.object(sessions, "_rolled_back", return_value=False):
        yield


@_sabotage("put_back", seed=40)
def a_set_aside_outbox_is_closed() -> Iterator[None]:
    """What a disk forgot that was put back is free for others."""
    real = sessions._set_aside

    async def set_aside(uow: Any, outbox_id: str) -> None:
        for incarnation_id in await sessions._of_outbox(uow, outbox_id):
            holder = session.Holder(outbox_id=outbox_id, incarnation_id=incarnation_id)
            await sessions.close_leases(uow, holder, {})
        await real(uow, outbox_id)

    with mock.patch.object(sessions, "_set_aside", set_aside):
        yield


@_sabotage(seed=1)
def slices_move_to_another_grant() -> Iterator[None]:
    """What comes back goes to the first grant of the balance."""

    def grants(freed: Freed, lease: LeaseRow, pieces: Collection[Any]) -> Any:
        known = freed.vault.held[lease.balance_id].grants
        first = known[min(known)]
        return [(first, piece) for piece in pieces]

    with mock.patch.object(Freed, "_grants", grants):
        yield


@_sabotage()
def facts_eat_leased_credit() -> Iterator[None]:
    """A fact burns what leases hold."""

    def draw(grant: GrantRow, amount: int) -> None:
        leased = min(amount, grant.leased)
        grant.leased -= leased
        grant.available -= amount - leased

    def held_by_none(_grant: GrantRow) -> int:
        return 0

    with (
        mock.patch.object(GrantRow, "held", property(held_by_none)),
        mock.patch.object(GrantRow, "draw", draw),
    ):
        yield


@_sabotage("pause")
def keys_are_not_guarded() -> Iterator[None]:
    """The same key through two sidecars is booked twice."""
    real = keys.Keys.standing

    def standing(known: keys.Keys, item: Any) -> keys.Standing:
        found = real(known, item)
        return keys.Standing.FIRST if found is keys.Standing.DUPLICATE else found

    with mock.patch.object(keys.Keys, "standing", standing):
        yield


@_sabotage("restore", seed=22)
def no_pause_after_a_restore() -> Iterator[None]:
    """A restored control plane leases at once what others hold."""

    async def none(*_: Any) -> Pause:
        return Pause(timedelta(), timedelta())

    with mock.patch.object(acquire, "read_pause", none):
        yield


# The outbox


@_sabotage("crash_soon", seed=7)
def acknowledged_before_commit() -> Iterator[None]:
    """Callers hear of it when it is in the transaction."""

    def apply(writer: GroupWriter, group: list[Any]) -> None:
        file = writer.file
        for pending, answer in zip(group, writer._run_group(group), strict=True):
            pending.finish(answer)
        file.finish_group()
        file.commit()

    with mock.patch.object(GroupWriter, "_apply", apply):
        yield


@_sabotage("kill", seed=3)
def held_before_commit() -> Iterator[None]:
    """A reservation is acknowledged, and written by the next who writes."""

    def hold(commits: Commits, after: Any, spent: Any, entitlements: Any) -> bool:
        with commits.book.lock:
            commits.book.hold(() if spent is None else spent.taken)
        commits.desk.remember(after, entitlements)
        return True

    with mock.patch.object(Commits, "hold", hold):
        yield


@_sabotage("kill", seed=7)
def close_frees_open_holds() -> Iterator[None]:
    """A closed session gives back what its reservations hold."""

    def nothing(*_: Any) -> Sequence[session.LeaseAmount]:
        return []

    with mock.patch.object(keeping, "keep", nothing):
        yield


@_sabotage("kill", seed=7)
def leases_are_not_written() -> Iterator[None]:
    """They are spent before the outbox has them."""
    with mock.patch.object(SqliteOutbox, "record_leases", return_value=None):
        yield


@_sabotage("kill", seed=28)
def ids_come_again() -> Iterator[None]:
    """Each process of a sidecar draws the ids of the one before: its sequence begins again under the same name."""
    real = Surroundings

    def same(*, random: Any, boot_id: str, **rest: Any) -> Any:
        random.seed(boot_id)
        return real(random=random, boot_id=boot_id, **rest)

    with mock.patch("tests.simulation.node.Surroundings", same):
        yield


@_sabotage("refuse")
def uploads_are_given_up() -> Iterator[None]:
    """After a failure the batch is thrown away."""
    real = Sender._failed

    def failed(sender: Sender, batch: Any, code: str, message: str) -> None:
        real(sender, batch, code, message)
        outbox: Any = sender._shelf
        outbox._job(lambda file: file.connection.execute("DELETE FROM records"), drains=True)

    with mock.patch.object(Sender, "_failed", failed):
        yield


@_sabotage("disk_fails", seed=29)
def unknown_outcomes_are_failures() -> Iterator[None]:
    """An error at COMMIT is said to have written nothing."""

    def unknown(writer: GroupWriter, group: list[Any], error: Exception) -> None:
        writer._must_reopen = True
        writer._turn_away(error)
        for pending in group:
            pending.fail(OutboxFailed(str(error)))
        writer._mend()

    with mock.patch.object(GroupWriter, "_unknown", unknown):
        yield


# The book and its keeper


@_sabotage("kill")
def old_leases_are_spent() -> Iterator[None]:
    """A process spends what the one before had leased."""
    real = Sidecar.start

    def start(sidecar: Sidecar) -> None:
        real(sidecar)
        rows = sidecar._outbox._read(
            lambda connection: connection.execute("SELECT lease FROM leases").fetchall()
        )
        now = sidecar._clock.monotonic()
        with sidecar._book.lock:
            for (encoded,) in rows:
                lease = session.PresentedLease.FromString(encoded)
                again = session.Lease(lease_id=lease.lease_id, slices=lease.slices, ends_at=lease.ends_at)
                again.ttl.FromSeconds(4)
                sidecar._book.install(from_wire(lease.ref), again, sent_at=now, received_at=now, revision=0)

    with mock.patch.object(Sidecar, "start", start):
        yield


@_sabotage("silence", seed=4)
def repeats_stretch_leases() -> Iterator[None]:
    """A lease counts from when its request was sent last."""
    real = Keeper._ask_again

    def again(keeper: Keeper, request: Any) -> None:
        real(keeper, request)
        request.sent_at = keeper._clock.monotonic()

    with mock.patch.object(Keeper, "_ask_again", again):
        yield


@_sabotage("silence", seed=4)
def leases_count_from_their_arrival() -> Iterator[None]:
    """The way of the answer is not taken off."""
    real = held.HeldLease.__init__

    def made(
        lease: Any, ref: Any, message: Any, *, sent_at: float, received_at: float, revision: int
    ) -> None:
        real(lease, ref, message, sent_at=received_at, received_at=received_at, revision=revision)

    with mock.patch.object(held.HeldLease, "__init__", made):
        yield


@_sabotage(seed=19)
def drift_is_ignored() -> Iterator[None]:
    """A slow clock makes leases longer."""
    with mock.patch.object(held, "DRIFT", 0.0):
        yield


@_sabotage("set_wall")
def leases_by_the_wall_clock() -> Iterator[None]:
    """Who sets the clock back makes leases longer."""

    def monotonic(clock: NodeClock) -> float:
        return (clock.now() - BASE).total_seconds()

    with mock.patch.object(NodeClock, "monotonic", monotonic):
        yield


@_sabotage(seed=26)
def credit_comes_back_twice() -> Iterator[None]:
    """What a request carries back is not what the outbox carries back."""
    real = Returning.take_crumbs

    def crumbs(returning: Returning, refs: Any) -> list[session.LeaseReturn]:
        found = real(returning, refs)
        for one in found:
            one.uid.seq += 1_000_000
        return found

    with mock.patch.object(Returning, "take_crumbs", crumbs):
        yield
