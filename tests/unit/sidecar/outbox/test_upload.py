"""The sender and the sessions together, step by step, against books in memory."""

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.encoding import EncodedBatch
from sidecar.outbox.port import KeyEntry, LeaseChange, OutboxFull, Reservation, Write
from sidecar.outbox.sender import INTERVAL_SECONDS, PURGE_SECONDS, REST_SECONDS, Sender
from sidecar.outbox.sessions import Sessions
from sidecar.outbox.sqlite import SqliteOutbox
from sidecar.runtime.clock import ManualClock
from sidecar.runtime.metrics import Metrics
from sidecar.runtime.trouble import Unreachable
from tests.unit.sidecar.outbox.books import FakeBooks, failing
from tests.unit.sidecar.outbox.opening import opened_outbox


class Process:
    """One sidecar process over an outbox, without threads."""

    def __init__(
        self, folder: Path, books: FakeBooks, clock: ManualClock, make_id: Callable[[], str], boot_id: str
    ) -> None:
        """Starts."""
        self.clock = clock
        metrics = Metrics(CollectorRegistry())
        self.outbox = opened_outbox(folder, clock=clock, make_id=make_id, boot_id=boot_id, metrics=metrics)
        turn = threading.Lock()
        self.sessions = Sessions(
            self.outbox, port=books, label="test", clock=clock, random=Random(1), metrics=metrics, turn=turn
        )
        self._sender_of = partial(
            Sender,
            port=books,
            sessions=self.sessions,
            clock=clock,
            random=Random(2),
            metrics=metrics,
            turn=turn,
        )
        self.sender = self._sender_of(self.outbox)

    def watched_by(self, outbox: Any) -> None:
        """From now on the sender has this one before it."""
        self.sender = self._sender_of(outbox)

    def use(self, *keys: str, lease: str = "") -> None:
        """Consumes."""
        for key in keys:
            body = usage.Usage(decision_id=key).SerializeToString()
            leases = (LeaseChange(lease, charged=1),) if lease else ()
            self.outbox.commit(Write(body, KeyEntry("acme", key, b"h", b"a"), leases=leases))

    def lease(self, lease_id: str, *, ended_seconds_ago: float = 0.0) -> None:
        """Writes a lease down."""
        lease = session.PresentedLease(lease_id=lease_id, slices=[session.Slice(grant_id="g", amount=5)])
        lease.ends_at.FromDatetime(self.clock.now() - timedelta(seconds=ended_seconds_ago))
        self.outbox.record_leases([lease])

    def run(self, seconds: float = 30.0) -> None:
        """Steps for that long."""
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            rest = min(self.sessions.step(), self.sender.step())
            self.clock.advance(max(0.01, min(rest, 1.0)))


Start = Callable[..., Process]


@pytest.fixture
def books() -> FakeBooks:
    """Empty."""
    return FakeBooks()


@pytest.fixture
def start(tmp_path: Path, books: FakeBooks) -> Iterator[Start]:
    """Starts a process; one that still runs is killed first, as far as the outbox can tell."""
    numbers = itertools.count(1)
    clock = ManualClock()
    running: list[Process] = []

    def starting(boot_id: str = "boot") -> Process:
        for process in running:
            process.outbox._lock_file.close()
        running.append(Process(tmp_path, books, clock, lambda: f"id{next(numbers)}", boot_id))
        return running[-1]

    yield starting
    for process in running:
        process.outbox.close()


def test_everything_arrives_in_order_exactly_once_when_replies_are_lost(
    start: Start, books: FakeBooks
) -> None:
    """Calls fail before and after they were done; nothing is booked twice or out of order, nothing is missing."""
    process = start()
    names = [f"k{n}" for n in range(700)]
    process.use(*names)
    books.trouble = failing(3)
    books.lost = failing(2)
    process.run()
    assert books.order == names
    assert process.outbox.wait_acknowledged(process.outbox.identity, 700, 0)


def test_a_purge_that_is_not_taken_stops_no_upload(start: Start, books: FakeBooks) -> None:
    """A full disk takes no purge, for as long as it is full. What waits goes up all the same: it makes room."""
    process = start()
    process.use("a", "b")
    process.watched_by(NothingPurged(process.outbox))
    process.run(5)
    assert books.order == ["a", "b"]
    process.clock.advance(2 * PURGE_SECONDS)
    process.use("c")
    process.run(5)
    assert books.order == ["a", "b", "c"]


class NothingPurged:
    """An outbox on a disk that is too full for a purge."""

    def __init__(self, outbox: SqliteOutbox) -> None:
        self._outbox = outbox

    def purge(self) -> bool:
        raise OutboxFull("database or disk is full")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outbox, name)


def test_nothing_is_uploaded_before_a_session_is_open(start: Start, books: FakeBooks) -> None:
    """A rolled-back disk must be found out before its rows go up."""
    process = start()
    process.use("a")
    books.trouble = failing(10**6, "open")
    process.run(5)
    assert process.sessions.opened is None
    assert books.order == []


def test_who_may_open_no_more_goes_on_uploading(start: Start, books: FakeBooks) -> None:
    """It was declared dead and lives: it leases nothing, what it acknowledges is booked, and the next process opens."""
    process = start()
    process.use("a")
    process.run()
    books.superseded.add(process.outbox.identity.incarnation_id)
    process.sessions.superseded()
    process.use("b")
    process.run(5)
    process.use("c")
    process.run(5)
    assert process.sessions.opened is None
    assert books.order == ["a", "b", "c"]
    second = start()
    second.use("d")
    second.run()
    assert books.order == ["a", "b", "c", "d"]
    assert second.sessions.opened is not None


def test_a_batch_that_fails_as_a_whole_is_halved_down_to_the_culprit(start: Start, books: FakeBooks) -> None:
    """Everything before the bad record is booked; it and what follows wait, and are tried for ever."""
    process = start()
    process.use(*[f"k{n}" for n in range(100)])
    books.poison = "k37"
    process.run(120)
    assert books.order == [f"k{n}" for n in range(37)]
    assert books.sizes[-1] == 1
    books.poison = ""
    process.run(60)
    assert books.order == [f"k{n}" for n in range(100)]


def test_a_record_that_the_disk_has_spoiled_stops_nobody(
    start: Start, books: FakeBooks, tmp_path: Path
) -> None:
    """It is carried as it is, for people to look at; what comes before and after it is booked."""
    process = start()
    process.use(*[f"k{n}" for n in range(20)])
    with closing(sqlite3.connect(tmp_path / "outbox.sqlite3")) as disk, disk:
        ids = [row[0] for row in disk.execute("SELECT id FROM records ORDER BY id")]
        disk.execute("UPDATE records SET body = ? WHERE id = ?", (b"\x1a\x7fspoiled", ids[7]))
        disk.execute("UPDATE records SET body = ? WHERE id = ?", (b"\xff\xff", ids[19]))
    process.run(120)
    spoiled = {7: b"\x1a\x7fspoiled".hex(), 19: b"\xff\xff".hex()}
    assert books.order == [spoiled.get(n, f"k{n}") for n in range(20)]


def test_an_earlier_incarnation_is_sent_first_and_then_closed(start: Start, books: FakeBooks) -> None:
    """Its rows go up before ours; it is closed with its last number once they are in the books, and not named again."""
    first = start()
    first.use("a", "b")
    earlier = first.outbox.identity.incarnation_id
    second = start()
    second.use("c")
    second.run()
    assert books.order == ["a", "b", "c"]
    assert [(c.holder.incarnation_id, c.final_seq, list(c.keep)) for c in books.closed] == [(earlier, 2, [])]
    second.sessions.superseded()
    second.run(5)
    named = {i.incarnation_id for i in books.opened[-1].open_incarnations}
    assert named == {second.outbox.identity.incarnation_id}


def test_keep_shrinks_as_holds_end_and_only_an_empty_one_ends_the_session(
    start: Start, books: FakeBooks
) -> None:
    """An open hold of the earlier process keeps its part of the lease, until its charge is in the books."""
    first = start()
    slices = [session.Slice(grant_id="g", amount=100)]
    first.outbox.record_leases([session.PresentedLease(lease_id="l1", slices=slices)])
    hold = Write(reservation=Reservation("r", 1, True, b""), leases=(LeaseChange("l1", held=30),))
    first.outbox.commit(hold)
    earlier = first.outbox.identity.incarnation_id
    second = start()
    second.run(5)
    kept = [[(k.lease_id, k.amount) for k in c.keep] for c in books.closed]
    assert kept == [[("l1", 30)]]
    assert earlier not in books.ended
    body = usage.Usage(decision_id="r").SerializeToString()
    change = (LeaseChange("l1", charged=20, held=-30),)
    second.outbox.commit(Write(body, reservation=Reservation("r", 2, False, b""), leases=change))
    books.trouble = failing(10**6, "report")
    second.run(5)
    assert [k.amount for k in books.closed[-1].keep] == [20]
    books.trouble = failing(0)
    second.run(30)
    assert list(books.closed[-1].keep) == []
    assert earlier in books.ended


def test_nothing_is_closed_after_a_reboot_under_process_crash(start: Start, books: FakeBooks) -> None:
    """The machine may have lost what the earlier process wrote last: its leases are left to the control
    plane's policy.
    """
    first = start()
    first.use("a")
    second = start(boot_id="another")
    second.run()
    assert books.order == ["a"]
    assert books.closed == []


def test_a_rolled_back_disk_is_set_aside_and_its_rows_go_up_with_their_old_uid(
    start: Start, books: FakeBooks, tmp_path: Path
) -> None:
    """An older copy of the file comes back: a new outbox id, rows sent again, each booked once, nothing closed."""
    first = start()
    first.use("a", "b")
    first.run(5)
    path = tmp_path / "outbox.sqlite3"
    first.outbox.close()
    copy = path.read_bytes()
    second = start()
    second.use("c", "d")
    second.run(5)
    closed_before = len(books.closed)
    second.outbox.close()
    path.write_bytes(copy)
    third = start()
    before = third.outbox.identity.outbox_id
    third.use("e")
    third.run()
    assert third.outbox.identity.outbox_id != before
    assert third.sessions.opened is not None
    assert sorted(books.order) == ["a", "b", "c", "d", "e"]
    assert not [c for c in books.closed[closed_before:] if c.holder.outbox_id == before]
    assert len(list(tmp_path.glob("*.aside-*"))) == 1


def test_a_request_that_was_overtaken_by_our_own_upload_is_no_rollback(
    start: Start, books: FakeBooks
) -> None:
    """Between reading the last number and asking, more went up: asked again, all is well and nothing is set aside."""
    process = start()
    process.use("a")
    process.run(5)
    before = process.outbox.identity
    me = before.incarnation_id

    def overtake(rpc: str) -> None:
        if rpc == "open" and books.highest[me] == 1:
            process.use("b")
            books.highest[me] = 2

    books.trouble = overtake
    process.sessions.superseded()
    process.run(5)
    assert process.outbox.identity == before
    assert process.sessions.opened is not None


def test_after_a_restore_rows_are_sent_again_from_the_restored_cursor(start: Start, books: FakeBooks) -> None:
    """The generation changes: leases are presented, ended incarnations named, and everything of the last day
    is there again.
    """
    first = start()
    first.use("a")
    earlier = first.outbox.identity.incarnation_id
    second = start()
    second.lease("l9")
    second.outbox.record_returns([session.LeaseAmount(lease_id="l9", amount=2)])
    second.use("b", "c")
    second.run()
    assert earlier in books.ended
    _put_back(books, second)
    second.sessions.reconnected(generation=2)
    second.run()
    assert books.order == ["a", "", "b", "c"]
    assert [(p.lease_id, p.returned) for p in books.opened[1].presented_leases] == [("l9", 2)]
    assert {i.incarnation_id for i in books.opened[1].open_incarnations} >= {earlier}
    assert second.outbox.generation == 2


def test_after_a_restore_nothing_is_done_before_all_leases_are_presented(
    start: Start, books: FakeBooks
) -> None:
    """Many are presented in several calls. Until the last has come through there is no session to acquire or upload in;
    what ended more than a day ago has no rows to be sent again, and is left out.
    """
    process = start()
    process.use("a")
    process.lease("old", ended_seconds_ago=25 * 3600)
    for number in range(2_100):
        process.lease(f"l{number}")
    process.run()
    _put_back(books, process)
    calls = iter(range(10**6))

    def third_fails(rpc: str) -> None:
        if rpc == "open" and next(calls) == 2:
            raise Unreachable("UNAVAILABLE")

    books.trouble = third_fails
    process.use("b")
    process.sessions.reconnected(generation=2)
    process.sessions.step()
    assert process.sessions.opened is None
    process.sender.step()
    assert books.order == []
    books.opened.clear()
    process.run()
    assert [len(request.presented_leases) for request in books.opened] == [0, 1000, 1000, 100]
    assert {one.lease_id for request in books.opened for one in request.presented_leases} == {
        f"l{number}" for number in range(2_100)
    }
    assert books.order == ["a", "b"]


def test_after_a_restore_what_had_ended_is_closed_again(start: Start, books: FakeBooks) -> None:
    """The backup may take it for open, whether or not it lacks rows. Rows of later incarnations, which may charge
    its leases, go first.
    """
    first = start()
    first.use("a")
    earlier = first.outbox.identity.incarnation_id
    second = start()
    second.run()
    assert books.ended == {earlier}
    second.use("b")
    second.run()
    _put_back(books, second)
    books.cursors[earlier] = books.highest[earlier] = 1
    second.sessions.reconnected(generation=2)
    second.sessions.step()
    assert books.closed == []
    second.run()
    assert books.order == ["b"]
    assert [request.holder.incarnation_id for request in books.closed] == [earlier]
    third = start()
    third.run()
    assert not any(reply.presented_leases for reply in books.opened[2:])
    assert books.ended == {earlier, second.outbox.identity.incarnation_id}


def _put_back(books: FakeBooks, process: Process) -> None:
    """To a backup that has heard of this outbox, and of nothing in it."""
    backup = FakeBooks(generation=2, outboxes={process.outbox.identity.outbox_id: set()})
    books.__dict__.update(backup.__dict__)


def test_a_gap_makes_the_sender_step_back(start: Start, books: FakeBooks) -> None:
    """The control plane lost what it had acknowledged: it is sent again from the number it expects."""
    process = start()
    process.use("a", "b")
    process.run(5)
    me = process.outbox.identity.incarnation_id
    books.cursors[me] = 0
    books.highest[me] = 0
    books.booked.clear()
    books.order.clear()
    process.use("c")
    process.run()
    assert books.order == ["a", "b", "c"]


def test_refusals_are_reported_once_and_never_retried(start: Start, books: FakeBooks) -> None:
    """A lossy channel: they go up with the next report, and are gone."""
    process = start()
    process.outbox.count_refusals([b"", b""], [b""])
    process.run(20)
    assert books.refusals == [(2, 1)]


def test_what_waited_goes_up_at_once_when_the_control_plane_is_back(start: Start, books: FakeBooks) -> None:
    """An outage lets the waits between tries grow to seconds; its end ends them."""
    process = start()
    process.run(1)
    process.use("a")
    books.trouble = failing(10**6)
    process.run(60)
    assert books.order == []
    books.trouble = failing(0)
    process.sessions.reconnected()
    process.sender.reconnected()
    process.run(0.3)
    assert books.order == ["a"]


def test_who_has_nothing_to_send_rests_until_something_is_written(start: Start, books: FakeBooks) -> None:
    """Then it gathers for an interval, unless somebody waits."""
    process = start()
    sender, woken = process.sender, []
    process.outbox.on_written(sender.written)
    sender.on_work(lambda: woken.append(True))
    process.sessions.step()
    assert [sender.step(), sender.step()] == [INTERVAL_SECONDS, REST_SECONDS]
    process.use("a")
    process.use("b")
    assert (woken, sender.step()) == ([True], INTERVAL_SECONDS)
    assert (sender.step(), books.order) == (0.0, ["a", "b"])
    assert [sender.step(), sender.step()] == [INTERVAL_SECONDS, REST_SECONDS]
    process.outbox.on_written(lambda: None)
    process.use("c")
    sender.kick()
    sender.written()  # the writer's thread may be later than who waits
    assert (sender.step(), books.order) == (0.0, ["a", "b", "c"])


@pytest.mark.parametrize("looks_who_comes", [True, False])
def test_usage_never_goes_to_another_installation(
    start: Start, books: FakeBooks, looks_who_comes: bool
) -> None:
    """Another control plane answers at the address, whether it looks who comes or not: it gets nothing, also from the
    next process on the same file, until the right one is back.
    """
    process = start()
    process.use("a")
    process.run(2)
    books.installation, books.looks_who_comes = "another", looks_who_comes
    process.sessions.reconnected()
    process.use("b")
    process.run(5)
    assert process.sessions.is_elsewhere
    assert process.sessions.opened is None
    process = start()
    process.use("c")
    process.run(5)
    assert process.sessions.is_elsewhere
    assert books.order == ["a"]
    books.installation = "ours"
    process.run(60)
    assert process.sessions.opened is not None
    assert books.order == ["a", "b", "c"]


def test_a_reconnect_in_the_middle_of_a_session_hands_nothing_to_another(
    start: Start, books: FakeBooks
) -> None:
    """The connection moved without anybody noticing: the upload itself names the installation, and is refused."""
    process = start()
    process.run(2)
    books.installation = "another"
    process.use("a")
    process.run(5)
    assert books.order == []
    assert process.sessions.is_elsewhere


def test_a_file_that_was_set_aside_belongs_where_it_belonged(start: Start, books: FakeBooks) -> None:
    """The new file with the rows that could be read goes to the same books."""
    process = start()
    process.use("a")
    process.run(2)
    assert process.outbox.set_aside("a test").installation_id == "ours"


def test_a_cursor_beyond_what_was_written_swallows_nothing(
    start: Start, books: FakeBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not written yet can not be in the books: it is not taken over, and all that comes is uploaded."""
    process = start()
    process.use("a")
    sound = books.report_batch

    def ahead(batch: EncodedBatch, timeout_seconds: float) -> usage.ReportBatchResponse:
        monkeypatch.setattr(books, "report_batch", sound)
        return usage.ReportBatchResponse(cursor=batch.last_seq + 1000)

    monkeypatch.setattr(books, "report_batch", ahead)
    process.run(5)
    process.use("b")
    process.run(5)
    assert books.order == ["a", "b"]


class WrittenMeanwhile:
    """An outbox that is written to right after the first look at what is there."""

    def __init__(self, outbox: SqliteOutbox, write: Callable[[], None]) -> None:
        self._outbox = outbox
        self._writes = [write]

    def incarnations(self) -> Any:
        found = self._outbox.incarnations()
        for write in self._writes:
            write()
        self._writes.clear()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outbox, name)


def test_what_is_written_between_two_looks_is_uploaded_and_nothing_else_happens(
    start: Start, books: FakeBooks
) -> None:
    """A batch may end above what was the last number a moment before: the answer to it has sense."""
    process = start()
    process.run(2)
    process.use("a")
    process.watched_by(WrittenMeanwhile(process.outbox, lambda: process.use("b")))
    process.run(2)
    assert books.order == ["a", "b"]
    assert len(books.opened) == 1


def test_books_that_have_more_of_an_earlier_process_are_followed(start: Start, books: FakeBooks) -> None:
    """Both were put back to an earlier point, the disk to one further back: what is written since is uploaded."""
    process = start()
    process.use("a")
    process.run(2)
    earlier = process.outbox.identity.incarnation_id
    process = start()
    process.run(2)
    books.cursors[earlier] = 100
    process.sessions.superseded()
    process.use("b")
    process.run(60)
    assert books.order == ["a", "b"]
