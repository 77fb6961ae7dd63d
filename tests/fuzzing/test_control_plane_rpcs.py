"""Whatever a sidecar sends, or whoever takes itself for one: a control plane answers with a status of its table, and
its books stay right.
"""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.restored import mark_restored
from control_plane.ledger.audit import audit
from purser.sync.v1.feed_pb2 import FollowRequest, FollowResponse, Start
from purser.sync.v1.session_pb2 import OpenSessionRequest
from tests.fuzzing.calm import within_process_memory, without_traceback
from tests.fuzzing.effort import NowAndThen, cases
from tests.fuzzing.servers import Target, reason_of, target
from tests.fuzzing.sync_messages import METHODS, follow_requests, follow_starts, openings, requests, to_real
from tests.fuzzing.wire import Damage, damages, mangled

EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.NOT_FOUND,
}
"""What a healthy control plane answers: its database is there, and nobody is too slow."""
GROWTH_MIB = 200
"""So much more memory may thousands of odd requests ever need. No message is larger than 4 MiB."""


@pytest.fixture
def sent_to(database_url: str, tmp_path: Path) -> Iterator[Target]:
    """One control plane for all requests of a test: what one leaves behind is what the next one meets."""
    with (
        within_process_memory(mib=GROWTH_MIB),
        without_traceback(),
        target(tmp_path, database=database_url) as made,
    ):
        yield made


def is_foreseen(target: Target, method: str, raw: bytes) -> None:
    """It is answered in time, as the table says; what is refused changes nothing."""
    with target.out_of_time():
        before = target.counts()
        code, answer, status = target.call(method, raw)
        assert code in EXPECTED, (code, status)
        if code is grpc.StatusCode.OK:
            target.note(method, raw, answer)
        else:
            assert reason_of(status)
            assert target.counts() == before


def method_of(request: Message) -> str:
    """Which rpc takes it."""
    return METHODS[type(request)]


def stands(target: Target) -> None:
    """Whatever was said to it: it serves who behaves, and its books hold."""
    target.is_well()
    target.hold_good()


def test_any_request_is_foreseen(sent_to: Target) -> None:
    """Ids, amounts, numbers and instants of every size, in every field of every rpc."""
    looks = NowAndThen(25, lambda: stands(sent_to))

    @cases(250)
    @given(requests)
    def send(request: Message) -> None:
        to_real(request, sent_to.leases, sent_to.cursors)
        is_foreseen(sent_to, method_of(request), request.SerializeToString())
        looks.tried()

    send()
    stands(sent_to)


def test_any_damage_is_foreseen(sent_to: Target) -> None:
    """Messages with flipped bits, false lengths, fields of others, groups in groups, numbers beyond 64 bits."""
    looks = NowAndThen(25, lambda: stands(sent_to))

    @cases(400)
    @given(requests, requests, st.lists(damages, min_size=1, max_size=4))
    def send(request: Message, donor: Message, all_damage: list[Damage]) -> None:
        for message in (request, donor):
            to_real(message, sent_to.leases, sent_to.cursors)
        raw = mangled(request.SerializeToString(), all_damage, donor.SerializeToString())
        is_foreseen(sent_to, method_of(request), raw)
        looks.tried()

    send()
    stands(sent_to)


def test_any_bytes_are_foreseen(sent_to: Target) -> None:
    """What is no message at all, or one of something else."""

    @cases(200)
    @given(st.sampled_from(sorted(METHODS.values())), st.binary(max_size=200))
    def send(method: str, raw: bytes) -> None:
        is_foreseen(sent_to, method, raw)

    send()


def is_foreseen_on_a_stream(target: Target, raws: list[bytes]) -> None:
    """It ends in time, as the table says."""
    code, heard, status = target.follow(raws)
    assert code in EXPECTED, (code, status)
    for raw in heard:
        assert FollowResponse.FromString(raw).WhichOneof("message")
    assert code is grpc.StatusCode.OK or reason_of(status)


def test_any_stream_is_foreseen(sent_to: Target) -> None:
    """A start in the middle, answers to what was never asked, messages that say nothing: in any order."""

    @cases(150)
    @given(st.lists(follow_requests, max_size=6), st.booleans(), follow_starts)
    def send(said: list[FollowRequest], begins: bool, start: Start) -> None:
        if begins:
            said = [FollowRequest(start=start), *said]
        for message in said:
            to_real(message, sent_to.leases, sent_to.cursors)
        is_foreseen_on_a_stream(sent_to, [message.SerializeToString() for message in said])

    send()
    sent_to.is_followed_well()


def test_any_damaged_stream_is_foreseen(sent_to: Target) -> None:
    """Bytes that are no message, at its beginning or in its middle."""

    @cases(150)
    @given(
        st.lists(st.tuples(follow_requests, st.lists(damages, max_size=2)), max_size=4),
        follow_starts,
        st.binary(max_size=30),
    )
    def send(said: list[tuple[FollowRequest, list[Damage]]], start: Start, raw: bytes) -> None:
        begin = FollowRequest(start=start).SerializeToString()
        raws = [mangled(message.SerializeToString(), all_damage, begin) for message, all_damage in said]
        is_foreseen_on_a_stream(sent_to, [begin, *raws, raw])
        is_foreseen_on_a_stream(sent_to, [*raws, raw])

    send()
    sent_to.is_followed_well()


def test_any_opening_is_foreseen_after_a_restore(sent_to: Target) -> None:
    """Sessions that present leases of all kinds to a control plane that was restored from a backup."""

    async def restore(uow: UnitOfWork) -> None:
        await mark_restored(uow)

    sent_to.write_books(restore)

    @cases(150)
    @given(openings, st.booleans())
    def send(request: OpenSessionRequest, knows_more: bool) -> None:
        request.generation = 7 if knows_more else request.generation
        to_real(request, sent_to.leases, sent_to.cursors)
        is_foreseen(sent_to, "OpenSession", request.SerializeToString())

    send()
    assert sent_to.ask_books(audit) == []
