"""Has an answer sense? One that has none is as good as none: nothing of it is taken over, and it is asked for again."""

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message

from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.encoding import EncodedBatch
from sidecar.view.states import BadState, instant, reading

_Kind = TypeVar("_Kind", bound=Message)

AMOUNT_MAX: Final = 2**63 - 1
DURATION_MAX_SECONDS: Final = 315_576_000_000
"""Ten thousand years: no Duration may be longer."""


class Senseless(Exception):
    """An answer that no control plane gives. Says what is wrong with it."""


class Unreadable:
    """Stands for bytes that are no message of their kind: grpc logs a traceback when a deserializer raises."""

    def __init__(self, why: str) -> None:
        """In words."""
        self.why = why


def reader(kind: type[_Kind]) -> Callable[[bytes], _Kind | Unreadable]:
    """A deserializer that never raises."""

    def read(raw: bytes) -> _Kind | Unreadable:
        try:
            return kind.FromString(raw)
        except DecodeError as error:
            return Unreadable(f"it is no {kind.DESCRIPTOR.name}: {error}")

    return read


def look_at_opened(request: session.OpenSessionRequest, reply: session.OpenSessionResponse) -> None:
    """Raises Senseless."""
    try:
        reading(reply.now)
    except BadState as error:
        raise Senseless(str(error)) from error
    if reply.rolled_back:
        return
    # Of an earlier one it may have more, where both were put back to an earlier point: nothing more is written there.
    own = request.holder.incarnation_id
    written = {one.incarnation_id: one.last_seq for one in request.open_incarnations}
    for cursor in reply.cursors:
        last_seq = written.get(own, AMOUNT_MAX) if cursor.incarnation_id == own else AMOUNT_MAX
        if not 0 <= cursor.last_seq <= last_seq:
            raise Senseless(f"it has {cursor.last_seq} of {last_seq} records")


def look_at_acquired(request: session.AcquireLeasesRequest, reply: session.AcquireLeasesResponse) -> None:
    """Raises Senseless where nobody can tell which answer is to which want. One that has none by itself becomes a
    refusal, and the others stay: asked again, the control plane would say the same.
    """
    if len(reply.acquired) != len(request.wants):
        raise Senseless(f"it answers {len(reply.acquired)} of {len(request.wants)} wants")
    for acquired in reply.acquired:
        try:
            _look_at_answer(acquired)
        except Senseless as error:
            acquired.Clear()
            acquired.refusal.kind = session.REFUSAL_KIND_FAILED
            acquired.refusal.message = f"an answer without sense: {error}"


def _look_at_answer(acquired: session.Acquired) -> None:
    for lease in acquired.leases:
        _look_at_lease(lease)
    share, hint = acquired.rate_share, acquired.hint
    _expect(share.tokens, share.micro_per_second, share.burst)
    _expect_span(share.ttl)
    _expect_span(acquired.refusal.retry_after)
    try:
        for at in (hint.period_start, hint.period_end, hint.next_expiry_at):
            instant(at)
    except BadState:
        acquired.ClearField("hint")  # it is shown, and decides nothing


def _look_at_lease(lease: session.Lease) -> None:
    amounts = [piece.amount for piece in lease.slices]
    _expect(*amounts, sum(amounts))
    if not lease.lease_id or min(amounts, default=0) == 0:
        raise Senseless("it has a lease of nothing, or without a name")
    _expect_span(lease.ttl)
    try:
        for at in (lease.ends_at, lease.never_after, lease.begins_at):
            instant(at)
    except BadState as error:
        raise Senseless(str(error)) from error


def look_at_reported(batch: EncodedBatch, reply: usage.ReportBatchResponse) -> None:
    """Raises Senseless. How far it can be at all the sender knows."""
    if reply.cursor < batch.last_seq:
        raise Senseless(f"it has taken records up to {reply.cursor} of {batch.last_seq}")


def _expect(*amounts: int) -> None:
    if not all(0 <= amount <= AMOUNT_MAX for amount in amounts):
        raise Senseless(f"it has an amount that is none: {_shown(amounts)}")


def _expect_span(span: Duration) -> None:
    if not (0 <= span.seconds <= DURATION_MAX_SECONDS and 0 <= span.nanos < 10**9):
        raise Senseless(f"{span.seconds}s is no time to last")


def _shown(amounts: Iterable[int]) -> str:
    return ", ".join(str(amount) for amount in list(amounts)[:10])
