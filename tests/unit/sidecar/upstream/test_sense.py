"""Which answers have sense."""

from collections.abc import Callable

import pytest

from purser.sync.v1 import session_pb2 as session
from sidecar.upstream import sense

WANTED = session.AcquireLeasesRequest(wants=[session.Want(need=1), session.Want(need=1)])


def lease(*amounts: int) -> session.Lease:
    """One with these slices."""
    made = session.Lease(lease_id="l", slices=[session.Slice(grant_id="g", amount=one) for one in amounts])
    made.ttl.FromSeconds(60)
    return made


def changed(change: Callable[[session.Acquired], object]) -> session.AcquireLeasesResponse:
    """An answer to two wants, of which the first was changed."""
    reply = session.AcquireLeasesResponse(acquired=[session.Acquired(leases=[lease(5)]) for _ in range(2)])
    change(reply.acquired[0])
    return reply


def _nothing(answer: session.Acquired) -> None:
    """Neither leases nor a refusal: nothing was asked for."""
    answer.Clear()


def _refusal(answer: session.Acquired) -> None:
    answer.Clear()
    answer.refusal.kind = session.REFUSAL_KIND_EXHAUSTED
    answer.refusal.retry_after.FromMilliseconds(500)


def _share(answer: session.Acquired) -> None:
    answer.Clear()
    answer.rate_share.tokens = 3


def _several(answer: session.Acquired) -> None:
    answer.leases.append(lease(1, 2))


SOUND = (_nothing, _refusal, _share, _several)


@pytest.mark.parametrize("change", SOUND)
def test_what_a_control_plane_says_has_sense(change: Callable[[session.Acquired], object]) -> None:
    reply = changed(change)
    before = reply.SerializeToString(deterministic=True)
    sense.look_at_acquired(WANTED, reply)
    assert reply.SerializeToString(deterministic=True) == before


def _below_zero(answer: session.Acquired) -> None:
    answer.leases[0].slices[0].amount = -1


def _too_much(answer: session.Acquired) -> None:
    answer.leases.append(lease(2**63 - 1, 2**63 - 1))


def _nameless(answer: session.Acquired) -> None:
    answer.leases[0].lease_id = ""


def _of_nothing(answer: session.Acquired) -> None:
    del answer.leases[0].slices[:]


def _backwards(answer: session.Acquired) -> None:
    answer.refusal.retry_after.seconds = -1


def _no_tokens(answer: session.Acquired) -> None:
    answer.rate_share.tokens = -1


def _no_time(answer: session.Acquired) -> None:
    answer.leases[0].ends_at.seconds = 2**62


SENSELESS = (_below_zero, _too_much, _nameless, _of_nothing, _backwards, _no_tokens, _no_time)


@pytest.mark.parametrize("change", SENSELESS)
def test_an_answer_without_sense_is_a_refusal_and_leaves_the_others(
    change: Callable[[session.Acquired], object],
) -> None:
    reply = changed(change)
    sense.look_at_acquired(WANTED, reply)
    first, second = reply.acquired
    assert (first.refusal.kind, len(first.leases)) == (session.REFUSAL_KIND_FAILED, 0)
    assert second.leases[0] == lease(5)


def test_a_hint_without_sense_is_left_out() -> None:
    """It is only shown."""
    reply = changed(lambda answer: setattr(answer.hint.period_end, "seconds", 2**62))
    sense.look_at_acquired(WANTED, reply)
    assert not reply.acquired[0].HasField("hint")
    assert reply.acquired[0].leases[0] == lease(5)


def test_other_answers_than_wants() -> None:
    """Which is which nobody can tell."""
    with pytest.raises(sense.Senseless, match="1 of 2"):
        sense.look_at_acquired(WANTED, session.AcquireLeasesResponse(acquired=[session.Acquired()]))


def opened(**cursors: int) -> session.OpenSessionResponse:
    """With a clock that shows a time of today."""
    reply = session.OpenSessionResponse(
        cursors=[session.IncarnationState(incarnation_id=one, last_seq=at) for one, at in cursors.items()]
    )
    reply.now.FromJsonString("2030-01-01T00:00:00Z")
    return reply


OPENING = session.OpenSessionRequest(
    holder=session.Holder(outbox_id="o", incarnation_id="own"),
    open_incarnations=[
        session.IncarnationState(incarnation_id="earlier", last_seq=5),
        session.IncarnationState(incarnation_id="own", last_seq=7),
    ],
)


def test_cursors() -> None:
    """More than an earlier process has written here may be in the books: its disk was put back. Of its own it knows."""
    sense.look_at_opened(OPENING, opened(earlier=100, own=7))
    for reply in (opened(own=8), opened(earlier=-1)):
        with pytest.raises(sense.Senseless):
            sense.look_at_opened(OPENING, reply)


def test_an_opening_says_the_time() -> None:
    """A clock that is not set would be one of 1970."""
    reply = opened(own=7)
    reply.ClearField("now")
    with pytest.raises(sense.Senseless, match="clock"):
        sense.look_at_opened(OPENING, reply)
