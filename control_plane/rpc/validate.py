"""What a sidecar's request says by itself, looked at before anything is locked: ids, lists and instants have bounds.

Not records: one that can not be booked is a dead letter, and the rest of its batch goes on. Nor what is wanted: one
want that can not be decided is refused alone. Nor how many incarnations are open: none may be left out.
"""

from collections.abc import Callable, Collection, Mapping
from datetime import UTC
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from control_plane.db.types import is_storable
from control_plane.errors import FieldProblem, Invalid
from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as sync

ID_BYTES: Final = 64
"""Of the ids that sidecars make up."""
NAME_BYTES: Final = 255
"""Of labels, and of the ids of others."""
TEXT_BYTES: Final = 1000
"""Of what is made of several names."""
FOLLOWED_IDS: Final = 1000
PRESENTED_LEASES: Final = 1000
WANTS: Final = 100
REFUSALS: Final = 1000


def check(request: Message) -> None:
    """Raises Invalid, which names the first field that is wrong."""
    CHECKS[type(request)](request)


def _opening(request: session.OpenSessionRequest) -> None:
    _holder("holder", request.holder)
    _text("label", request.label, most=NAME_BYTES)
    for index, state in enumerate(request.open_incarnations):
        _text(f"open_incarnations[{index}].incarnation_id", state.incarnation_id, least=1, most=ID_BYTES)
    _count("presented_leases", request.presented_leases, PRESENTED_LEASES)
    for index, lease in enumerate(request.presented_leases):
        where = f"presented_leases[{index}]"
        _text(f"{where}.lease_id", lease.lease_id, least=1, most=NAME_BYTES)
        _text(f"{where}.ref.customer_id", lease.ref.customer_id, most=NAME_BYTES)
        _text(f"{where}.ref.subject_id", lease.ref.subject_id, most=NAME_BYTES)
        _text(f"{where}.ref.balance", lease.ref.balance)
        for number, piece in enumerate(lease.slices):
            _text(f"{where}.slices[{number}].grant_id", piece.grant_id)
        _instant(f"{where}.ends_at", lease.ends_at)


def _acquiring(request: session.AcquireLeasesRequest) -> None:
    _holder("holder", request.holder)
    _text("request_id", request.request_id, least=1, most=ID_BYTES)
    _count("wants", request.wants, WANTS)


def _of_holder(request: session.CloseSessionRequest | sync.ReportBatchRequest) -> None:
    _holder("holder", request.holder)


def _refusals(request: sync.ReportRefusalsRequest) -> None:
    _count("counts", request.counts, REFUSALS)
    for index, count in enumerate(request.counts):
        where = f"counts[{index}]"
        _text(f"{where}.customer_id", count.customer_id, most=NAME_BYTES)
        _text(f"{where}.feature", count.feature, most=NAME_BYTES)
        _instant(f"{where}.minute", count.minute)
    for index, sample in enumerate(request.samples):
        where = f"samples[{index}]"
        _text(f"{where}.customer_id", sample.customer_id, most=NAME_BYTES)
        _text(f"{where}.feature", sample.feature, most=NAME_BYTES)
        _text(f"{where}.decision.decision_id", sample.decision.decision_id, most=NAME_BYTES)
        _instant(f"{where}.at", sample.at)


def _start(start: feed.Start) -> None:
    _holder("start.holder", start.holder)
    _followed("start", start.customer_ids, start.subject_ids)
    _instant("start.as_of", start.as_of)


def _subscribe(wanted: feed.Subscribe) -> None:
    if len(wanted.customer_ids) + len(wanted.subject_ids) > FOLLOWED_IDS:
        raise Invalid(FieldProblem("subscribe", f"at most {FOLLOWED_IDS} ids at a time"))
    _followed("subscribe", wanted.customer_ids, wanted.subject_ids)


def _followed(where: str, customer_ids: Collection[str], subject_ids: Collection[str]) -> None:
    for name, ids in (("customer_ids", customer_ids), ("subject_ids", subject_ids)):
        for index, one in enumerate(ids):
            # What nobody could be called can be asked for: it does not exist.
            _bytes(f"{where}.{name}[{index}]", one, least=1, most=NAME_BYTES)


def _holder(where: str, holder: session.Holder) -> None:
    _text(f"{where}.outbox_id", holder.outbox_id, least=1, most=ID_BYTES)
    _text(f"{where}.incarnation_id", holder.incarnation_id, least=1, most=ID_BYTES)
    _text(f"{where}.installation_id", holder.installation_id, most=ID_BYTES)


def _bytes(field: str, value: str, *, least: int, most: int) -> None:
    if not least <= len(value.encode()) <= most:
        raise Invalid(FieldProblem(field, f"{least} to {most} bytes"))


def _text(field: str, value: str, *, least: int = 0, most: int = TEXT_BYTES) -> None:
    _bytes(field, value, least=least, most=most)
    if not is_storable(value):
        raise Invalid(FieldProblem(field, "a text with NUL"))


def _count(field: str, items: Collection[object], most: int) -> None:
    if len(items) > most:
        raise Invalid(FieldProblem(field, f"at most {most}"))


def _instant(field: str, stamp: Timestamp) -> None:
    try:
        stamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid(
            FieldProblem(field, f"{stamp.seconds} s and {stamp.nanos} ns are no instant")
        ) from error


CHECKS: Final[Mapping[type[Message], Callable[[Any], None]]] = {
    session.OpenSessionRequest: _opening,
    session.CloseSessionRequest: _of_holder,
    session.AcquireLeasesRequest: _acquiring,
    sync.ReportBatchRequest: _of_holder,
    sync.ReportRefusalsRequest: _refusals,
    feed.Start: _start,
    feed.Subscribe: _subscribe,
}
