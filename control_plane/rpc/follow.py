"""The feed on the wire: one stream's requests in, its messages out, with bounds on both sides."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

import grpc
import structlog
from sqlalchemy.exc import SQLAlchemyError

from control_plane.db.unit_of_work import Database
from control_plane.errors import FieldProblem, Invalid
from control_plane.feed.poller import Poller
from control_plane.feed.stream import HEARTBEAT_SECONDS, Stream
from control_plane.leases.recalls import answer_recall
from control_plane.leases.seen import SEEN_EVERY, note_seen
from control_plane.rpc.validate import check
from purser.sync.v1.feed_pb2 import FollowRequest, FollowResponse, Recalled, Start

WRITE_SECONDS = 10.0
"""A message that is not taken within this ends the stream."""
AGAIN_SECONDS = 0.5
"""After so long what could not be written is tried again."""
WRITES_MAX = 100
"""What a follower has said that may wait for the database at a time; then it is not listened to."""

Write = Callable[[], Awaitable[None]]
FollowContext = grpc.aio.ServicerContext[FollowRequest, FollowResponse]


class SlowFollower(Exception):
    """The follower does not take its messages; it may come again and resume."""


class FollowerGone(Exception):
    """The follower has ended its stream, or the network did."""


class ShuttingDown(Exception):
    """This process goes; come again."""


async def follow(
    database: Database,
    poller: Poller,
    start: Start,
    requests: AsyncIterator[FollowRequest],
    context: FollowContext,
) -> None:
    """Serves one stream, of which `first_of` has read the start, until the follower ends it.

    Raises Invalid, SlowFollower, ShuttingDown.
    """
    woken = asyncio.Event()
    stream = Stream(database, poller, start, woken.set)
    # One request is read ahead, no more: who sends faster than it is served waits in its own buffers.
    inbox: asyncio.Queue[FollowRequest | None] = asyncio.Queue(maxsize=1)
    reading = asyncio.create_task(_read(requests, inbox, woken))
    # Heartbeats must not wait for a disk that stands still: who hears none takes this control plane to be away.
    writes: asyncio.Queue[Write | None] = asyncio.Queue()
    writing = asyncio.create_task(_write(writes, woken))
    for task in (reading, writing):
        task.add_done_callback(lambda ended: _has_ended(ended, woken))
    seen_at = float("-inf")
    try:
        await _send(context, await stream.begin())
        while True:
            if poller.monotonic() - seen_at >= SEEN_EVERY.total_seconds():
                seen_at = poller.monotonic()
                writes.put_nowait(lambda: _note_seen(database, start))
            with suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), HEARTBEAT_SECONDS / 2)
            woken.clear()
            if poller.closed:
                raise ShuttingDown
            if writing.done():
                return writing.result()
            await _send(context, await stream.pull(poller.monotonic()))
            if not inbox.empty() and writes.qsize() < WRITES_MAX:
                request = inbox.get_nowait()
                if request is None:
                    writes.put_nowait(None)
                    await asyncio.wait((writing,), timeout=WRITE_SECONDS)
                    return None
                woken.set()  # there may be another behind it
                await _send(context, await _answer(database, stream, start, request, writes))
            elif inbox.empty() and reading.done():
                return None
    except FollowerGone:
        return None
    finally:
        stream.end()
        for task in (reading, writing):
            task.cancel()


async def first_of(requests: AsyncIterator[FollowRequest]) -> Start:
    """Who follows, and from where. Raises Invalid."""
    first = await anext(requests, None)
    if first is None or first.WhichOneof("message") != "start":
        raise Invalid(FieldProblem("start", "the first message of a stream is a Start, and only the first"))
    start = first.start
    check(start)
    return start


async def _read(
    requests: AsyncIterator[FollowRequest], inbox: asyncio.Queue[FollowRequest | None], woken: asyncio.Event
) -> None:
    async for request in requests:
        await inbox.put(request)
        woken.set()
    await inbox.put(None)
    woken.set()


async def _write(writes: asyncio.Queue[Write | None], woken: asyncio.Event) -> None:
    """Writes what there is to write, in order; again, where the database can not take it now."""
    while (write := await writes.get()) is not None:
        while True:
            try:
                await write()
                break
            except (SQLAlchemyError, OSError) as error:
                structlog.get_logger("control_plane.feed").warning("not_written", error=str(error))
                await asyncio.sleep(AGAIN_SECONDS)
        woken.set()


def _has_ended(task: asyncio.Task[None], woken: asyncio.Event) -> None:
    """The stream looks at what ended it, unless that has ended itself: then nobody needs to know."""
    if not task.cancelled():
        task.exception()
    woken.set()


async def _note_seen(database: Database, start: Start) -> None:
    """It takes what it is sent, and keepalive would have ended a dead connection: it lives."""
    await database.transact(lambda uow: note_seen(uow, start.holder))


async def _answer(
    database: Database,
    stream: Stream,
    start: Start,
    request: FollowRequest,
    writes: asyncio.Queue[Write | None],
) -> Sequence[FollowResponse]:
    match request.WhichOneof("message"):
        case "subscribe":
            wanted = request.subscribe
            check(wanted)
            return await stream.subscribe(wanted.customer_ids, wanted.subject_ids)
        case "unsubscribe":
            stream.unsubscribe(request.unsubscribe.customer_ids, request.unsubscribe.subject_ids)
        case "ack":
            stream.acknowledged(request.ack.revision)
        case "nack":
            log = structlog.get_logger("control_plane.feed")
            log.error(
                "feed_message_refused",
                label=start.label,
                revision=request.nack.revision,
                error=request.nack.error,
            )
        case "recalled":
            answered = request.recalled
            writes.put_nowait(lambda: _keep_answer(database, start, answered))
        case _:
            raise Invalid(FieldProblem("message", "a Start stands first, and every message says something"))
    return ()


async def _keep_answer(database: Database, start: Start, answered: Recalled) -> None:
    await database.transact(
        lambda uow: answer_recall(
            uow,
            recall_id=answered.recall_id,
            outbox_id=start.holder.outbox_id,
            incarnation_id=start.holder.incarnation_id,
            last_seq=answered.last_seq,
            lease_ids=answered.lease_ids,
        )
    )


async def _send(context: FollowContext, messages: Sequence[FollowResponse]) -> None:
    for message in messages:
        try:
            await asyncio.wait_for(context.write(message), WRITE_SECONDS)
        except TimeoutError as error:
            raise SlowFollower("messages are not taken; come again and resume") from error
        except Exception as error:  # what a write raises on a broken stream is no public type of grpc
            raise FollowerGone from error
