"""The outbox on SQLite, call by call."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.keeping import PURGE_SLICE
from sidecar.outbox.port import (
    Durability,
    KeyEntry,
    KeyTaken,
    LeaseChange,
    OutboxFailed,
    OutboxLocked,
    Reservation,
    ReservationMoved,
    Write,
    Written,
)
from sidecar.outbox.sqlite import SqliteOutbox
from sidecar.runtime.clock import ManualClock
from tests.unit.sidecar.outbox.opening import opened_outbox

Open = Callable[..., SqliteOutbox]


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands."""
    return ManualClock()


@pytest.fixture
def open_outbox(tmp_path: Path, clock: ManualClock) -> Iterator[Open]:
    """Opens the outbox of this test; every opening is a new process as far as it can tell."""
    numbers = itertools.count(1)
    opened: list[SqliteOutbox] = []

    def opening(
        durability: Durability = Durability.POWER_LOSS, *, boot_id: str = "boot", is_threaded: bool = True
    ) -> SqliteOutbox:
        outbox = opened_outbox(
            tmp_path, numbers, durability=durability, clock=clock, boot_id=boot_id, is_threaded=is_threaded
        )
        opened.append(outbox)
        return outbox

    yield opening
    for outbox in opened:
        outbox.close()


def lease(lease_id: str, amount: int) -> session.PresentedLease:
    """A lease of one slice."""
    return session.PresentedLease(
        lease_id=lease_id,
        ref=session.BalanceRef(customer_id="acme", balance="wallet:usd"),
        slices=[session.Slice(grant_id="g1", amount=amount)],
    )


def use(key: str, amount: int = 1, lease_id: str = "l1") -> Write:
    """A consume of `amount` from a lease."""
    body = usage.Usage(decision_id=key, charges=[])
    return Write(
        usage=body.SerializeToString(),
        key=KeyEntry("acme", key, b"hash", f"answer {key}".encode()),
        leases=(LeaseChange(lease_id, charged=amount),),
    )


def uploaded(outbox: SqliteOutbox, incarnation_id: str | None = None) -> usage.ReportBatchRequest | None:
    """The next batch, decoded."""
    batch = outbox.read_batch(
        incarnation_id or outbox.identity.incarnation_id, max_records=500, max_bytes=1 << 20
    )
    return None if batch is None else usage.ReportBatchRequest.FromString(batch.payload)


def test_numbers_have_no_gaps_and_only_usage_takes_one(open_outbox: Open) -> None:
    """Numbers count up by one; a write without usage takes none, and a key that is taken uses none up."""
    outbox = open_outbox()
    assert outbox.commit(use("a")) == Written(1)
    assert isinstance(outbox.commit(use("a")), KeyTaken)
    assert outbox.commit(Write(reservation=Reservation("r", 1, True, b"s"))) == Written(0)
    assert outbox.commit(use("b")) == Written(2)


def test_a_taken_key_turns_away_only_its_own_write(open_outbox: Open) -> None:
    """In one group, and even twice in it, the second use of a key gets the first answer; all others are applied."""
    outbox = open_outbox()
    outbox.record_leases([lease("l1", 100)])
    holds = [("a", 10), ("b", 20), ("a", 30), ("c", 40)]
    results = outbox.commit_all(
        [use(key)._replace(leases=(LeaseChange("l1", held=amount),)) for key, amount in holds]
    )
    assert results[0] == Written(1)
    assert results[1] == Written(2)
    assert results[2] == KeyTaken(KeyEntry("acme", "a", b"hash", b"answer a"))
    assert results[3] == Written(3)
    (kept,) = outbox.keep(outbox.identity.incarnation_id)
    assert kept.amount == 70


def test_a_reservation_moves_only_from_the_version_that_was_read(open_outbox: Open) -> None:
    """Two settles that started from the same state: one is applied, the other learns what stands, and leaves
    no trace.
    """
    outbox = open_outbox()
    outbox.commit(Write(reservation=Reservation("r", 1, True, b"open")))
    assert outbox.commit(Write(reservation=Reservation("r", 2, True, b"settled 5"))) == Written(0)
    late = Write(
        usage=b"", key=KeyEntry("acme", "r", b"h", b""), reservation=Reservation("r", 2, True, b"settled 7")
    )
    assert outbox.commit(late) == ReservationMoved(Reservation("r", 2, True, b"settled 5"))
    assert outbox.key("acme", "r") is None
    assert outbox.commit(Write(reservation=Reservation("x", 2, True, b""))) == ReservationMoved(None)


def test_a_second_process_is_turned_away(open_outbox: Open) -> None:
    """The file has one process; it is free again when that one closes it."""
    first = open_outbox()
    with pytest.raises(OutboxLocked):
        open_outbox()
    first.close()
    open_outbox()


def test_a_restart_finds_everything_under_a_new_incarnation(open_outbox: Open) -> None:
    """Keys, open reservations and records are there after a restart; numbers start over in an incarnation of
    its own.
    """
    first = open_outbox()
    before = first.identity
    first.commit(use("a"))
    first.commit(Write(reservation=Reservation("r", 1, True, b"open")))
    first.commit(Write(reservation=Reservation("done", 1, False, b"closed")))
    first.close()
    second = open_outbox()
    assert second.identity.outbox_id == before.outbox_id
    assert second.identity.incarnation_id != before.incarnation_id
    entry = second.key("acme", "a")
    assert entry is not None
    assert entry.answer == b"answer a"
    assert [r.reservation_id for r in second.open_reservations()] == ["r"]
    assert second.commit(use("b")) == Written(1)
    old = uploaded(second, before.incarnation_id)
    assert old is not None
    assert [r.usage.decision_id for r in old.records] == ["a"]


def test_a_batch_is_what_was_written(open_outbox: Open) -> None:
    """The joined bytes decode to the records with their numbers, usage and returns in order, and stop at the limits."""
    outbox = open_outbox()
    outbox.record_leases([lease("l1", 100)])
    outbox.commit(use("a"))
    returned = outbox.record_returns([session.LeaseAmount(lease_id="l1", amount=7)])
    assert returned[0].uid.seq == 2
    assert returned[0].uid.incarnation_id == outbox.identity.incarnation_id
    outbox.commit(use("b"))
    batch = uploaded(outbox)
    assert batch is not None
    assert (batch.first_seq, batch.last_seq) == (1, 3)
    assert [r.seq for r in batch.records] == [1, 2, 3]
    assert batch.records[0].usage.decision_id == "a"
    assert batch.records[1].returned == usage.ReturnedAmount(lease_id="l1", amount=7)
    assert batch.holder == outbox.identity.holder
    small = outbox.read_batch(outbox.identity.incarnation_id, max_records=500, max_bytes=1)
    assert small is not None
    assert small.size == 1
    outbox.acknowledge(outbox.identity.incarnation_id, 2)
    rest = uploaded(outbox)
    assert rest is not None
    assert (rest.first_seq, rest.last_seq) == (3, 3)
    outbox.acknowledge(outbox.identity.incarnation_id, 3)
    assert uploaded(outbox) is None


def test_rows_are_kept_for_a_day_and_a_rewound_cursor_sends_them_again(
    open_outbox: Open, clock: ManualClock
) -> None:
    """Acknowledged rows can be sent again for 24 hours; after that a rewound stretch is numbers that hold nothing."""
    outbox = open_outbox()
    me = outbox.identity.incarnation_id
    outbox.commit_all([use("a"), use("b")])
    outbox.acknowledge(me, 2)
    clock.advance(23 * 3600)
    outbox.purge()
    outbox.rewind({me: 1}, generation=7)
    again = uploaded(outbox)
    assert again is not None
    assert [r.usage.decision_id for r in again.records] == ["b"]
    assert outbox.generation == 7
    outbox.acknowledge(me, 2)
    clock.advance(25 * 3600)
    outbox.purge()
    outbox.rewind({me: 0}, generation=8)
    empty = uploaded(outbox)
    assert empty is not None
    assert [(r.seq, r.WhichOneof("body")) for r in empty.records] == [(1, None), (2, None)]


def test_keys_go_after_forty_days_and_open_reservations_never(open_outbox: Open, clock: ManualClock) -> None:
    """A key is remembered for 40 days; what is open stays."""
    outbox = open_outbox()
    outbox.commit(use("a"))
    outbox.commit(Write(reservation=Reservation("open", 1, True, b"")))
    outbox.commit(Write(reservation=Reservation("closed", 1, False, b"")))
    clock.advance(39 * 86400)
    outbox.purge()
    assert outbox.key("acme", "a") is not None
    clock.advance(2 * 86400)
    outbox.purge()
    assert outbox.key("acme", "a") is None
    assert outbox.reservation("closed") is None
    assert outbox.reservation("open") is not None


def names_of_keys(outbox: SqliteOutbox) -> set[str]:
    """All that are in the file."""
    return {row[0] for row in outbox._file.connection.execute("SELECT key FROM keys")}


def test_a_clock_that_was_ahead_stops_no_purge(open_outbox: Open, clock: ManualClock) -> None:
    """Keys that say they are from years ahead: those behind them go when they are old, a slice a call, and so do they,
    for they came before. What came after them is kept as long as any.
    """
    outbox = open_outbox(is_threaded=False)
    clock.shift_wall(10 * 365 * 86400)
    outbox.commit_all([use(f"ahead {n}") for n in range(PURGE_SLICE + 100)])
    clock.shift_wall(-10 * 365 * 86400)
    outbox.commit_all([use(f"old {n}") for n in range(3 * PURGE_SLICE)])
    clock.advance(39 * 86400)
    outbox.commit(use("young"))
    outbox.purge()
    assert len(names_of_keys(outbox)) == 4 * PURGE_SLICE + 101
    clock.advance(2 * 86400)
    has_more = True
    while has_more:
        before = len(names_of_keys(outbox))
        has_more = outbox.purge()
        assert before - len(names_of_keys(outbox)) <= PURGE_SLICE
    assert names_of_keys(outbox) == {"young"}


def test_keys_from_ahead_stay_until_one_that_came_later_is_old(open_outbox: Open, clock: ManualClock) -> None:
    """Nothing else says when they were written: they may be of a minute ago."""
    outbox = open_outbox(is_threaded=False)
    outbox.commit(use("before"))
    clock.shift_wall(365 * 86400)
    outbox.commit(use("ahead"))
    clock.shift_wall(-365 * 86400)
    clock.advance(41 * 86400)
    outbox.purge()
    assert names_of_keys(outbox) == {"ahead"}


def test_a_clock_that_is_behind_deletes_nothing(open_outbox: Open, clock: ManualClock) -> None:
    """All keys are from far beyond now, then, and none that came later is old."""
    outbox = open_outbox(is_threaded=False)
    outbox.commit_all([use("a"), use("b")])
    clock.shift_wall(-20 * 365 * 86400)
    outbox.commit(use("c"))
    outbox.purge()
    assert names_of_keys(outbox) == {"a", "b", "c"}


def test_a_file_from_before_gets_its_index(open_outbox: Open) -> None:
    """The keys' order in time is made at the opening, where there is none."""
    first = open_outbox()
    first.commit(use("a"))
    first._file.connection.execute("DROP INDEX IF EXISTS keys_at")
    first.close()
    second = open_outbox()
    plan = "EXPLAIN QUERY PLAN SELECT id FROM keys WHERE at < 1 ORDER BY at LIMIT 1"
    steps = [row[3] for row in second._file.connection.execute(plan)]
    assert steps == ["SEARCH keys USING COVERING INDEX keys_at (at<?)"]
    assert second.key("acme", "a") is not None


def test_what_is_kept_of_an_earlier_incarnation_shrinks_to_nothing(open_outbox: Open) -> None:
    """Holds survive a restart; a settle turns one into a charge on its way, and the acknowledgement ends the need."""
    first = open_outbox()
    first.record_leases([lease("l1", 100), lease("l2", 50)])
    hold = Write(reservation=Reservation("r", 1, True, b""), leases=(LeaseChange("l1", held=30),))
    first.commit(hold)
    earlier = first.identity.incarnation_id
    first.close()
    second = open_outbox()
    assert second.keep(earlier) == [session.LeaseAmount(lease_id="l1", amount=30)]
    settled = usage.Usage(decision_id="r").SerializeToString()
    change = (LeaseChange("l1", charged=20, held=-30),)
    second.commit(Write(usage=settled, reservation=Reservation("r", 2, False, b""), leases=change))
    assert second.keep(earlier) == [session.LeaseAmount(lease_id="l1", amount=20)]
    second.acknowledge(second.identity.incarnation_id, 1)
    assert second.keep(earlier) == []


@pytest.mark.parametrize(
    ("durability", "boot_id", "stops", "closable"),
    [
        (Durability.POWER_LOSS, "another", False, True),
        (Durability.PROCESS_CRASH, "boot", False, True),
        (Durability.PROCESS_CRASH, "another", False, False),
        (Durability.PROCESS_CRASH, "another", True, True),
    ],
)
def test_a_reboot_under_process_crash_leaves_incarnations_unclosable(
    open_outbox: Open, durability: Durability, boot_id: str, stops: bool, closable: bool
) -> None:
    """What a reboot may have lost is not closed; what was synced at a proper stop, or always, is."""
    first = open_outbox(durability)
    first.commit(use("a"))
    earlier = first.identity.incarnation_id
    if not stops:  # as a crash leaves it
        first._file.close(synced=False)
    first.close()
    second = open_outbox(durability, boot_id=boot_id)
    found = {i.incarnation_id: i.closable for i in second.incarnations()}
    assert found[earlier] is closable


def test_refusals_are_counted_once(open_outbox: Open) -> None:
    """They are taken out of the file when they are read: lossy, never twice."""
    outbox = open_outbox(is_threaded=False)
    outbox.count_refusals([b"count"], [b"sample"])
    assert outbox.take_refusals(10) == ([b"count"], [b"sample"])
    assert outbox.take_refusals(10) == ([], [])


def test_a_closed_outbox_turns_writes_away(open_outbox: Open) -> None:
    """After close nothing is written, and nobody waits."""
    outbox = open_outbox()
    outbox.close()
    with pytest.raises(OutboxFailed):
        outbox.commit(use("a"))


def test_set_aside_goes_on_in_a_new_file_with_the_old_uids(open_outbox: Open, tmp_path: Path) -> None:
    """A rolled-back file keeps lying there; its rows are written again with the uid they had, keys and holds
    are known.
    """
    outbox = open_outbox()
    before = outbox.identity
    outbox.record_leases([lease("l1", 100)])
    outbox.commit_all([use("a"), use("b")])
    outbox.commit(Write(reservation=Reservation("r", 1, True, b"open")))
    after = outbox.set_aside("rolled back")
    assert after == outbox.identity
    assert after.outbox_id != before.outbox_id
    assert after.incarnation_id != before.incarnation_id
    incarnations = outbox.incarnations()
    assert before.incarnation_id not in {i.incarnation_id for i in incarnations}
    records = [r for i in incarnations if (b := uploaded(outbox, i.incarnation_id)) for r in b.records]
    assert [r.usage.decision_id for r in records] == ["a", "b"]
    uid = session.RecordUid(outbox_id=before.outbox_id, incarnation_id=before.incarnation_id, seq=2)
    assert records[1].first_written == uid
    assert isinstance(outbox.commit(use("a")), KeyTaken)
    assert outbox.reservation("r") == Reservation("r", 1, True, b"open")
    assert len(list(tmp_path.glob("*.aside-*"))) == 1
    assert outbox.presented() == []
