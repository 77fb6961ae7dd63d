"""Callers: they repeat what has no answer with the same key, and note what they were told."""

import pytest

import purser
from clients.cli.dev.callers import PATIENCE_SECONDS, NobodyAnswers
from clients.cli.dev.people import PlannedCall
from clients.cli.dev.replay import Replay, stream
from tests.unit.cli.dev.fakes import FakeSidecar, FakeTime, callers, overloaded, usd

MEASURES = {"input_tokens": "10", "output_tokens": "2"}
CALL = PlannedCall("r-1", "ada", 0, 10, 64, (3, 6, 9), "8192")


def test_an_unknown_outcome_is_repeated_with_the_same_key() -> None:
    """Unavailable and too slow are asked again word for word; the event counts once."""
    sidecar = FakeSidecar()
    sidecar.script = [purser.Unavailable("gone"), purser.DeadlineExceeded("slow"), purser.Reason.OK]
    asking = callers(sidecar)
    assert asking.consume(0, "ada", "key-1", MEASURES)
    assert len(sidecar.calls) == 3
    assert sidecar.calls[0] == sidecar.calls[1] == sidecar.calls[2]
    assert asking.heard.repeated == 2
    assert list(asking.heard.events) == [("ada", "key-1")]
    assert asking.heard.allowed == {"ada": 1}


def test_an_overloaded_sidecar_is_left_alone_for_as_long_as_it_says() -> None:
    """`retry_after` is waited for."""
    sidecar, time = FakeSidecar(), FakeTime()
    sidecar.script = [overloaded(7)]
    callers(sidecar, time).report(0, "ada", "key-1", MEASURES)
    assert time.waits == [7]


def test_patience_ends() -> None:
    """A sidecar that never comes back fails the demo instead of hanging it."""
    sidecar, time = FakeSidecar(), FakeTime()
    sidecar.script = [purser.Unavailable("gone")] * 10_000
    with pytest.raises(NobodyAnswers, match="ConsumeUsage"):
        callers(sidecar, time).consume(0, "ada", "key-1", MEASURES)
    assert time.seconds == pytest.approx(PATIENCE_SECONDS, abs=1)


def test_a_refusal_makes_no_event() -> None:
    """It is counted by customer and reason."""
    sidecar = FakeSidecar()
    sidecar.script = [purser.Reason.RATE_LIMITED]
    asking = callers(sidecar)
    assert not asking.consume(0, "ada", "key-1", MEASURES)
    assert asking.heard.events == {}
    assert asking.heard.refused["ada"] == {"RATE_LIMITED": 1}
    assert asking.heard.requests == 1


def test_a_stream_reserves_settles_under_way_and_once_for_good() -> None:
    """Cumulative totals, the last one final; one event, keyed by the reservation."""
    sidecar = FakeSidecar()
    asking = callers(sidecar)
    assert stream(asking, CALL)
    assert [rpc for rpc, _ in sidecar.calls] == ["reserve", "settle", "settle", "settle"]
    settles = [(fields["measures"]["output_tokens"], fields["final"]) for _, fields in sidecar.calls[1:]]
    assert settles == [("3", False), ("6", False), ("9", True)]
    assert asking.heard.events["ada", "r-1"].measures == CALL.total
    assert asking.heard.tokens == {"ada": 19}


def test_a_refused_reserve_streams_nothing() -> None:
    """No settle follows a refusal."""
    sidecar = FakeSidecar()
    sidecar.script = [purser.Reason.INSUFFICIENT_CREDITS]
    assert not stream(callers(sidecar), CALL)
    assert [rpc for rpc, _ in sidecar.calls] == ["reserve"]


def test_overage_of_a_settle_is_a_fact_and_counted_once() -> None:
    """What a final settle could not cover is remembered by balance; settles before it do not add to it."""
    sidecar = FakeSidecar()
    sidecar.overage = {"wallet:usd": usd("0.25")}
    asking = callers(sidecar)
    stream(asking, CALL)
    assert asking.heard.fact_overage == {("ada", "wallet:usd"): usd("0.25").value}


def test_a_settle_that_came_too_late_is_a_fact_of_its_own_key() -> None:
    """The event is looked for under the key that the answer names."""
    sidecar = FakeSidecar()
    sidecar.recorded_as = "r-1#late"
    asking = callers(sidecar)
    stream(asking, CALL)
    assert not asking.heard.events["ada", "r-1#late"].decided


def test_a_replay_makes_every_call_and_says_how_far_it_is() -> None:
    """All calls are made, by several workers, and progress ends at the whole."""
    sidecar, seen = FakeSidecar(), list[int]()
    asking = callers(sidecar)
    calls = [PlannedCall(f"r-{n}", "ada", 0, 10, 64, (3,), "") for n in range(50)]
    with Replay(asking, calls, workers=4) as replay:
        replay.finish(seen.append)
    assert seen[-1] == 50
    assert len(asking.heard.events) == 50


def test_a_replay_hands_on_what_a_call_raised() -> None:
    """An error in a worker ends the replay with that error, not with silence."""
    sidecar = FakeSidecar()
    sidecar.script = [purser.KeyConflict("used before")]
    with pytest.raises(purser.KeyConflict), Replay(callers(sidecar), [CALL], workers=1) as replay:
        replay.finish(lambda done: None)
