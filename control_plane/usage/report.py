"""ReportBatch: a run of an outbox, booked exactly once, in one transaction."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy.exc import StatementError

from control_plane.db.types import AmountOutOfRange
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.errors import FieldProblem, Invalid
from control_plane.faults import is_database_fault
from control_plane.leases.seen import note_seen
from control_plane.leases.sessions import lock_or_make_session, save_session
from control_plane.usage.booking import Booked, book
from control_plane.usage.dead_letters import Dead, DeadReason, bury, exhume, mark_replayed
from control_plane.usage.opening import Overtaken
from control_plane.usage.records import Item, Unbookable, uid_of
from purser.sync.v1 import usage_pb2 as sync

ATTEMPTS: Final = 3
"""A single record is tried so often: somebody else may have won its key in the middle of it, or moved what it moves."""


class SequenceGap(ValueError):
    """The run begins above what is expected."""

    def __init__(self, expected_seq: int) -> None:
        super().__init__(f"the next number is {expected_seq}")
        self.expected_seq = expected_seq


async def report_batch(uow: UnitOfWork, request: sync.ReportBatchRequest) -> sync.ReportBatchResponse:
    """Books what is above the cursor and moves it; what is at or below is acknowledged again.

    A record that can not be booked ends as a dead letter, and the rest goes on. Raises SequenceGap, and
    Invalid where the numbers do not fit the records; a fault of the database fails the batch as a whole.
    """
    _check(request)
    row = await lock_or_make_session(uow, request.holder)
    if request.last_seq <= row.cursor:
        await note_seen(uow, request.holder)
        return sync.ReportBatchResponse(cursor=row.cursor)
    if request.first_seq > row.cursor + 1:
        raise SequenceGap(row.cursor + 1)
    new = [record for record in request.records if record.seq > row.cursor]
    booked = await _book(uow, [Item(uid_of(request.holder, record), record) for record in new])
    row.cursor, row.seen_at = request.last_seq, uow.now
    await save_session(uow, row)
    return sync.ReportBatchResponse(
        cursor=row.cursor,
        duplicate_seqs=sorted(item.record.seq for item in booked.duplicates),
        dead_letters=[
            sync.DeadLetter(seq=dead.item.record.seq, reason=f"{dead.reason}: {dead.message}")
            for dead in sorted(booked.dead, key=lambda dead: dead.item.record.seq)
        ],
    )


async def replay_dead_letter(uow: UnitOfWork, uid: str) -> Booked:
    """Tries a dead letter again, under its first uid. It stays where it is if it still can not be booked.
    Raises NotFound.
    """
    item = await exhume(uow, uid)
    item.record.ClearField("first_written")  # it is its own; and it is known to be a dead letter
    booked = await _book(uow, [item])
    if not booked.dead:
        await mark_replayed(uow, uid)
    return booked


async def book_items(uow: UnitOfWork, items: Sequence[Item]) -> Booked:
    """Books records that come from elsewhere than an outbox; as in a batch, a faulty one ends as a dead
    letter.
    """
    return await _book(uow, items)


async def _book(
    uow: UnitOfWork, items: Sequence[Item], *, wary: bool = False, attempts: int = ATTEMPTS
) -> Booked:
    """Books a run in a savepoint. What was overtaken by others is booked again with more locks; what fails for its own
    fault is halved until the record at fault stands alone.
    """
    if not items:
        return Booked()
    try:
        async with uow.connection.begin_nested():
            return await book(uow, items, wary=wary)
    except Exception as error:
        if is_database_fault(error):
            raise
        fault = error
    if isinstance(fault, Overtaken) and not wary:
        return await _book(uow, items, wary=True)
    if len(items) > 1:
        middle = len(items) // 2
        booked = await _book(uow, items[:middle], wary=wary)
        booked.add(await _book(uow, items[middle:], wary=wary))
        return booked
    if not _is_its_own(fault) and attempts > 1:
        return await _book(uow, items, wary=True, attempts=attempts - 1)
    dead = Dead(items[0], DeadReason.UNBOOKABLE, _why(fault))
    await bury(uow, [dead])
    return Booked(dead=[dead])


def _is_its_own(fault: Exception) -> bool:
    """Does the record say what can not be booked, whatever others do meanwhile?"""
    return isinstance(_cause(fault), Unbookable | AmountOutOfRange)


def _cause(fault: Exception) -> BaseException:
    """Of what the database's driver wrapped, what it was."""
    return (isinstance(fault, StatementError) and fault.orig) or fault


def _why(fault: Exception) -> str:
    """In words."""
    cause = _cause(fault)
    return str(cause) if _is_its_own(fault) else f"{type(cause).__name__}: {str(cause)[:300]}"


def _check(request: sync.ReportBatchRequest) -> None:
    if request.first_seq < 1 or request.last_seq < request.first_seq:
        raise Invalid(FieldProblem("first_seq", "numbers begin at 1 and do not fall"))
    # The numbers may promise more than memory holds: how many records there are comes first.
    expected = range(request.first_seq, request.last_seq + 1)
    if len(request.records) != request.last_seq - request.first_seq + 1 or any(
        record.seq != seq for record, seq in zip(request.records, expected, strict=True)
    ):
        raise Invalid(FieldProblem("records", "one for every number, in order"))
