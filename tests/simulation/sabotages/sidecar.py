"""Ways to break a sidecar."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any
from unittest import mock

from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as usage
from sidecar.app import Sidecar, Surroundings
from sidecar.deciding import spending
from sidecar.deciding.consume import Consume
from sidecar.deciding.reserving import ending
from sidecar.deciding.reserving.commits import Commits
from sidecar.deciding.reserving.desk import Desk
from sidecar.deciding.spending import Till
from sidecar.engine import resolve
from sidecar.engine.subscribed import subscribed
from sidecar.leases import held
from sidecar.leases.keeper import Keeper
from sidecar.leases.obeying import Obeying
from sidecar.leases.requests import from_wire
from sidecar.leases.returning import Returning
from sidecar.outbox import keeping, salvage
from sidecar.outbox.file import OutboxFile, read_meta
from sidecar.outbox.port import Incarnation, OutboxFailed, Write, WriteResult, Written
from sidecar.outbox.sender import Sender
from sidecar.outbox.sqlite import SqliteOutbox
from sidecar.outbox.writer import GroupWriter
from sidecar.view.pulse import Pulse
from sidecar.view.snapshot import SnapshotFile, SnapshotUnusable, StoredView
from tests.simulation.node import NodeClock
from tests.simulation.plane import BASE
from tests.simulation.sabotages.registry import sabotage

# The outbox


@sabotage("crash_soon", seed=3, breaks="lost:")
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


@sabotage("kill", seed=3, breaks="is not known there")
def held_before_commit() -> Iterator[None]:
    """A reservation is acknowledged, and written by the next who writes."""

    def hold(commits: Commits, after: Any, spent: Any, entitlements: Any) -> bool:
        with commits.book.lock:
            commits.book.hold(() if spent is None else spent.taken)
        commits.desk.remember(after, entitlements)
        return True

    with mock.patch.object(Commits, "hold", hold):
        yield


@sabotage("kill", seed=25, breaks="free again:|oversold")
def close_frees_open_holds() -> Iterator[None]:
    """A closed session gives back what its reservations hold."""

    def nothing(*_: Any) -> Sequence[session.LeaseAmount]:
        return []

    with mock.patch.object(keeping, "keep", nothing):
        yield


@sabotage("restore", seed=195, breaks="oversold:|free again:")
def leases_are_not_written() -> Iterator[None]:
    """They are spent before the outbox has them."""
    with mock.patch.object(SqliteOutbox, "record_leases", return_value=None):
        yield


@sabotage("kill", seed=14, breaks="lost:")
def ids_come_again() -> Iterator[None]:
    """Each process of a sidecar draws the ids of the one before: its sequence begins again under the same name."""
    real = Surroundings

    def same(*, random: Any, boot_id: str, **rest: Any) -> Any:
        random.seed(boot_id)
        return real(random=random, boot_id=boot_id, **rest)

    with mock.patch("tests.simulation.node.Surroundings", same):
        yield


@sabotage("refuse", breaks="lost:")
def uploads_are_given_up() -> Iterator[None]:
    """After a failure the batch is thrown away."""
    real = Sender._failed

    def failed(sender: Sender, batch: Any, code: str, message: str) -> None:
        real(sender, batch, code, message)
        outbox: Any = sender._shelf
        outbox._job(lambda file: file.connection.execute("DELETE FROM records"), drains=True)

    with mock.patch.object(Sender, "_failed", failed):
        yield


@sabotage("disk_fails", seed=53, breaks="invented:")
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


@sabotage("reboot", seed=3, breaks="is not known there|lost:")
def power_loss_is_not_synced() -> Iterator[None]:
    """Whatever the setting: what is acknowledged is with the operating system."""
    real = OutboxFile._open

    def opened(file: OutboxFile) -> sqlite3.Connection:
        connection = real(file)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    with mock.patch.object(OutboxFile, "_open", opened):
        yield


@sabotage("disk_full", seed=3, breaks="lost:")
def full_commits_are_written() -> Iterator[None]:
    """A transaction that a full disk does not take when it is committed is acknowledged."""
    real = OutboxFile.commit

    def commit(file: OutboxFile) -> None:
        try:
            real(file)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise

    with mock.patch.object(OutboxFile, "commit", commit):
        yield


@sabotage("disk_fails", seed=4, breaks="lost:")
def failed_rows_are_acknowledged() -> Iterator[None]:
    """A row that a failing disk does not take is left out of its transaction, and the rest is committed."""
    real = OutboxFile.write_all

    def write_all(file: OutboxFile, writes: Sequence[Write]) -> list[WriteResult] | None:
        try:
            return real(file, writes)
        except sqlite3.OperationalError:
            return [Written(0) for _ in writes]

    with mock.patch.object(OutboxFile, "write_all", write_all):
        yield


# The book and its keeper


@sabotage("kill", seed=3, breaks="after its end")
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


@sabotage("silence", seed=1, breaks="after its end")
def repeats_stretch_leases() -> Iterator[None]:
    """A lease counts from when its request was sent last."""
    real = Keeper._ask_again

    def again(keeper: Keeper, request: Any) -> None:
        real(keeper, request)
        request.sent_at = keeper._clock.monotonic()

    with mock.patch.object(Keeper, "_ask_again", again):
        yield


@sabotage("silence", breaks="after its end")
def leases_count_from_their_arrival() -> Iterator[None]:
    """The way of the answer is not taken off."""
    real = held.HeldLease.__init__

    def made(
        lease: Any, ref: Any, message: Any, *, sent_at: float, received_at: float, revision: int
    ) -> None:
        real(lease, ref, message, sent_at=received_at, received_at=received_at, revision=revision)

    with mock.patch.object(held.HeldLease, "__init__", made):
        yield


@sabotage(seed=38, breaks="after its end")
def drift_is_ignored() -> Iterator[None]:
    """A slow clock makes leases longer."""
    with mock.patch.object(held, "DRIFT", 0.0):
        yield


@sabotage(seed=3, breaks="before it begins")
def next_periods_are_spent_at_once() -> Iterator[None]:
    """A lease that was taken ahead is spent before it begins."""
    real = held.HeldLease.__init__

    def made(lease: Any, *args: Any, **times: Any) -> None:
        real(lease, *args, **times)
        lease.begins_at = lease.arrived_at

    with mock.patch.object(held.HeldLease, "__init__", made):
        yield


@sabotage("refuse", seed=3, breaks="after its end")
def leases_are_finished_where_none_may_be() -> Iterator[None]:
    """Features that say `deny` finish their leases, too."""

    def finish_until(till: Till, _bill: Any) -> float | None:
        pulse = till.view.pulse
        return None if pulse.is_connected or pulse.confirmed_at is None else pulse.confirmed_at + 10.0

    with mock.patch.object(Till, "finish_until", finish_until):
        yield


@sabotage("refuse", seed=120, breaks="after the last heartbeat")
def leases_are_finished_for_ever() -> Iterator[None]:
    """However long nothing was heard."""
    real = Till.finish_until

    def finish_until(till: Till, bill: Any) -> float | None:
        until = real(till, bill)
        return None if until is None else until + 3600.0

    with mock.patch.object(Till, "finish_until", finish_until):
        yield


@sabotage("set_wall")
def leases_by_the_wall_clock() -> Iterator[None]:
    """Who sets the clock back makes leases longer."""

    def monotonic(clock: NodeClock) -> float:
        return (clock.now() - BASE).total_seconds()

    with mock.patch.object(NodeClock, "monotonic", monotonic):
        yield


@sabotage(seed=43, breaks="free again:|oversold|leased is|never granted")
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


@sabotage("rot", seed=3)
def a_salvage_closes() -> Iterator[None]:
    """What could not be read of a spoiled file is free for others: it goes on under its old name."""
    real = salvage._copy_installation

    def copied(old: Any, into: Any) -> None:
        real(old, into)
        outbox_id = None
        with suppress(sqlite3.Error):
            outbox_id = read_meta(old, "outbox_id")
        if outbox_id:
            into.set_meta("outbox_id", outbox_id)
            into.identity = replace(into.identity, outbox_id=outbox_id)

    with mock.patch.object(salvage, "_copy_installation", copied):
        yield


@sabotage("rot", seed=3, breaks="lost:")
def a_salvage_sends_nothing() -> Iterator[None]:
    """What can be read of a spoiled file is left in it."""
    with mock.patch.object(salvage, "_copy_records", return_value=(0, 0, 0)):
        yield


@sabotage("reboot", seed=63, breaks="oversold:|free again:")
def a_reboot_closes() -> Iterator[None]:
    """What a machine lost that went down is free for others: its sessions are closed as after any restart."""
    real = keeping.incarnations

    def incarnations(*args: Any) -> list[Incarnation]:
        return [replace(one, closable=True) for one in real(*args)]

    with mock.patch.object(keeping, "incarnations", incarnations):
        yield


@sabotage("reboot", seed=10, breaks="lost:")
def a_reboot_uploads_nothing() -> Iterator[None]:
    """What an earlier boot acknowledged that may have lost its last commits is taken for uploaded."""
    real = keeping.incarnations

    def incarnations(*args: Any) -> list[Incarnation]:
        return [one if one.closable else replace(one, cursor=one.last_seq) for one in real(*args)]

    with mock.patch.object(keeping, "incarnations", incarnations):
        yield


@sabotage("vanish", seed=37, breaks="lost:")
def remote_repeats_are_not_waited_for() -> Iterator[None]:
    """Who repeats what was unknown is told that it is in the books, which it is not."""
    with mock.patch.object(SqliteOutbox, "_await_earlier", return_value=None):
        yield


@sabotage("silence", seed=3, breaks="says that its view")
def the_view_is_said_to_be_young() -> Iterator[None]:
    """Its age is said to be none, while it grows."""
    with mock.patch.object(Pulse, "age_seconds", lambda pulse, _: 0.0 if pulse._confirmed else None):
        yield


@sabotage("suspend", seed=1, breaks="is suspended")
def suspensions_are_ignored() -> Iterator[None]:
    """A suspended customer is allowed what it was."""

    def ignoring(customer: Any, *rest: Any) -> Any:
        return subscribed(replace(customer, suspended=False), *rest)

    with mock.patch.object(resolve, "subscribed", ignoring):
        yield


@sabotage(breaks="presumed:")
def nothing_is_given_back() -> Iterator[None]:
    """What a sidecar does not need any more is left to quarantine."""
    with mock.patch.object(Returning, "try_to_write", return_value=None):
        yield


@sabotage("limits", breaks="was given back for")
def recalls_are_not_obeyed() -> Iterator[None]:
    """A recall is answered, and nothing given back."""
    with mock.patch.object(Obeying, "_withdraw", return_value=[]):
        yield


@sabotage("silence", breaks="had been there for")
def leases_are_finished_while_connected() -> Iterator[None]:
    """What only who is cut off may do."""

    def finish_until(till: Till, bill: Any) -> float | None:
        confirmed = till.view.pulse.confirmed_at
        return None if confirmed is None else confirmed + 6.0

    with mock.patch.object(Till, "finish_until", finish_until):
        yield


@sabotage(seed=287, breaks="refused:")
def who_waited_for_a_lease_is_refused() -> Iterator[None]:
    """The lease comes, and is not looked at."""
    with mock.patch.object(spending, "ROUNDS_MAX", 1):
        yield


@sabotage(breaks="mischarged:")
def a_settle_charges_the_whole_hold() -> Iterator[None]:
    """Who reserved ten and used three pays ten."""
    real = ending._decided

    def decided(reserved: Any, settlement: Any) -> Any:
        event = real(reserved, settlement)
        record = usage.Usage.FromString(event.usage)
        held = {hold.lease_id: hold.amount for hold in reserved.holds}
        for charge in record.charges:
            for part in charge.covered:
                part.amount = max(part.amount, held.get(part.lease_id, 0))
        return replace(event, usage=record.SerializeToString(), paid=reserved.holds, left=())

    with mock.patch.object(ending, "_decided", decided):
        yield


@sabotage(breaks="presumed:|stranded:")
def reservations_never_expire() -> Iterator[None]:
    """What was forgotten is held for ever."""

    def due(desk: Desk, now: Any) -> list[str]:
        return [key for key, (held, _) in desk._open.items() if held.was_settled and held.expires_at <= now]

    with mock.patch.object(Desk, "due", due):
        yield


@sabotage("silence", breaks="blamed:")
def repeats_fail() -> Iterator[None]:
    """Who repeats what was recorded hears of an error of ours."""
    with mock.patch.object(Consume, "_repeated", side_effect=RuntimeError("no")):
        yield


@sabotage("rot", breaks="does not run")
def a_spoiled_snapshot_is_the_end() -> Iterator[None]:
    """What can not be read of the view is not set aside."""
    real = SnapshotFile.read

    def read(file: SnapshotFile) -> StoredView | None:
        try:
            return real(file)
        except SnapshotUnusable as error:
            raise RuntimeError(str(error)) from error

    with mock.patch.object(SnapshotFile, "read", read):
        yield


@sabotage("put_back", "refuse", "limits", seed=37, breaks="says that its view")
def a_snapshot_is_as_old_as_its_process() -> Iterator[None]:
    """However long the file had lain there."""
    real = Pulse.restore

    def restore(pulse: Pulse, as_of: datetime | None, *, wall_now: datetime, monotonic: float) -> None:
        real(pulse, as_of and wall_now, wall_now=wall_now, monotonic=monotonic)

    with mock.patch.object(Pulse, "restore", restore):
        yield
