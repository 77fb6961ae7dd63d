"""What makes a control plane be away."""

import grpc
import pytest
from prometheus_client import CollectorRegistry

from sidecar.runtime.clock import ManualClock
from sidecar.runtime.metrics import Metrics
from sidecar.upstream.link import DOUBT_SECONDS, SILENT_SECONDS, Link

SLOW = grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.fixture
def clock() -> ManualClock:
    """Stands still."""
    return ManualClock()


@pytest.fixture
def link(clock: ManualClock) -> Link:
    """Up."""
    return Link(clock, Metrics(CollectorRegistry()))


def test_many_slow_calls_are_no_outage_while_anything_is_heard(link: Link, clock: ManualClock) -> None:
    """A stalled disk over there, or callers with no patience: it is there."""
    for _ in range(50):
        clock.advance(SILENT_SECONDS / 2)
        link.failed(SLOW)
        link.failed(SLOW)
        assert not link.is_down
        link.worked()
    assert link.outage == 0


def test_a_slow_call_in_silence_is_an_outage_until_somebody_may_try(link: Link, clock: ManualClock) -> None:
    """For a moment; the next slow call is enough, and the first word ends it."""
    clock.advance(SILENT_SECONDS)
    seen = [link.is_down]
    for _ in range(2):
        link.failed(SLOW)
        seen.append(link.is_down)
        clock.advance(DOUBT_SECONDS)
        seen.append(link.is_down)
    link.failed(SLOW)
    link.worked()
    assert seen == [False, True, False, True, False]
    assert (link.is_down, link.outage) == (False, 1)


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED])
def test_what_says_nothing_of_the_link_is_no_outage(
    link: Link, clock: ManualClock, code: grpc.StatusCode
) -> None:
    """An answer of some kind, or our own doing."""
    clock.advance(SILENT_SECONDS)
    link.failed(code)
    assert not link.is_down


def test_a_refused_connection_is_an_outage_at_once(link: Link) -> None:
    """There is nobody."""
    link.failed(grpc.StatusCode.UNAVAILABLE)
    assert link.is_down
