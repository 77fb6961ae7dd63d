"""What a reservation promises, over a real port: its usage is one event, and none of it is ever lost."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import entitlement_service_pb2 as api
from purser.v1 import usage_pb2 as usage
from tests.contracts.offline import Offline, offline_sidecar, write_snapshot
from tests.e2e.fleet import eventually
from tests.integration.whole.installation import ShiftedClock


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Offline]:
    """One sidecar for all: each test has reservations of its own."""
    folder = tmp_path_factory.mktemp("sidecar")
    write_snapshot(folder, as_of=datetime.now(UTC))
    with offline_sidecar(folder) as running:
        yield running


def event(tokens: int | None = None, **fields: Any) -> usage.UsageEvent:
    """An event of so many input tokens; None: of no measure."""
    measures = {} if tokens is None else {"input_tokens": str(tokens)}
    given = {"customer_id": "acme", "event_name": "llm_inference", "measures": measures} | fields
    return usage.UsageEvent(**given)


def reserve(to: Offline, name: str, **fields: Any) -> api.ReserveUsageResponse:
    """Holds an estimate of 100 tokens."""
    response: api.ReserveUsageResponse = to.stub.ReserveUsage(
        api.ReserveUsageRequest(reservation_id=name, event=event(100), **fields), timeout=5
    )
    assert response.decision.allowed
    return response


def settle(
    to: Offline, name: str, told: usage.UsageEvent | None, *, final: bool = True
) -> api.SettleReservationResponse:
    """Says what was used."""
    response: api.SettleReservationResponse = to.stub.SettleReservation(
        api.SettleReservationRequest(reservation_id=name, event=told, final=final), timeout=5
    )
    return response


def consume(to: Offline, told: usage.UsageEvent) -> api.ConsumeUsageResponse:
    """Consumes."""
    response: api.ConsumeUsageResponse = to.stub.ConsumeUsage(api.ConsumeUsageRequest(event=told), timeout=5)
    return response


def recorded(of: Offline, name: str) -> list[sync.Usage]:
    """The records whose key is the reservation's, or begins with it."""
    return [found for found in of.records() if found.event.idempotency_key.split("#")[0] == name]


def is_over(of: Offline, name: str) -> None:
    """Waits until the reservation, whose time has run out, has ended."""
    eventually(lambda: of.sidecar._desk._open.get(name) is None, seconds=10, what=f"{name} has ended")


def refused(code: grpc.StatusCode, call: Any) -> None:
    """The call ends with that status."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is code


def test_an_id_that_is_another_events_key_is_refused(offline: Offline) -> None:
    """Its event could not be recorded under its key: ALREADY_EXISTS, before anything is used."""
    consume(offline, event(7, idempotency_key="taken"))
    refused(grpc.StatusCode.ALREADY_EXISTS, lambda: reserve(offline, "taken"))


def test_usage_is_not_lost_where_another_event_took_the_key(offline: Offline) -> None:
    """A consume took the key meanwhile, with other content: the settle's usage is a fact under `<id>#late`, the answer
    says so, and again; nothing is held any more.
    """
    reserve(offline, "meanwhile")
    consume(offline, event(7, idempotency_key="meanwhile"))
    answer = settle(offline, "meanwhile", event(90))
    assert answer.recorded_as == "meanwhile#late"
    assert answer.reservation.state == api.RESERVATION_STATE_SETTLED
    assert not answer.charged
    assert not answer.reservation.held
    assert settle(offline, "meanwhile", event(90)) == answer
    consumed, fact = recorded(offline, "meanwhile")
    assert consumed.decided
    assert (fact.decided, fact.event.idempotency_key) == (False, "meanwhile#late")
    assert fact.event.measures == {"input_tokens": "90"}


def test_usage_is_not_lost_where_the_late_key_is_taken_too(offline: Offline) -> None:
    """Then it goes under the next one."""
    reserve(offline, "twice")
    for key in ("twice", "twice#late"):
        consume(offline, event(7, idempotency_key=key))
    assert settle(offline, "twice", event(90)).recorded_as == "twice#late2"
    assert recorded(offline, "twice")[-1].event.measures == {"input_tokens": "90"}


def test_the_same_event_under_the_key_is_recorded_once(offline: Offline) -> None:
    """A consume with the reservation's key and its very content: the settle adds nothing, and says under which key
    it is recorded.
    """
    reserve(offline, "same")
    consume(offline, event(90, idempotency_key="same"))
    answer = settle(offline, "same", event(90))
    assert answer.recorded_as == "same"
    assert len(recorded(offline, "same")) == 1


def test_a_settle_without_measures_makes_an_event(offline: Offline) -> None:
    """Final, before a release or before the end: what counts events counts it. Without a settle there is none."""
    reserve(offline, "final")
    settle(offline, "final", None)
    reserve(offline, "released")
    settle(offline, "released", None, final=False)
    offline.stub.ReleaseReservation(api.ReleaseReservationRequest(reservation_id="released"), timeout=5)
    reserve(offline, "expired", ttl=Duration(seconds=1))
    settle(offline, "expired", event(), final=False)
    reserve(offline, "unused")
    offline.stub.ReleaseReservation(api.ReleaseReservationRequest(reservation_id="unused"), timeout=5)
    is_over(offline, "expired")
    made = [len(recorded(offline, name)) for name in ("final", "released", "expired", "unused")]
    assert made == [1, 1, 1, 0]


def test_a_settle_after_final_says_the_same_or_nothing(offline: Offline) -> None:
    """The same again is the same answer; other measures, attributes or ids are FAILED_PRECONDITION."""
    reserve(offline, "ended")
    told = event(90, attributes={"model": "text-gen-v3"})
    answer = settle(offline, "ended", told)
    assert settle(offline, "ended", told) == answer
    assert settle(offline, "ended", event(90)) == answer
    for other in (
        event(91),
        event(90, attributes={"model": "text-gen-v4"}),
        event(90, attributes={"tier": "batch"}),
        event(90, app_id="other"),
    ):
        refused(grpc.StatusCode.FAILED_PRECONDITION, lambda other=other: settle(offline, "ended", other))


@pytest.mark.parametrize("other", [event(1, customer_id="other"), event(1, event_name="job")])
def test_what_a_reservation_is_of_can_not_change(offline: Offline, other: usage.UsageEvent) -> None:
    """A settle and an extension of another customer or event are malformed, and change nothing."""
    name = f"of-{other.customer_id}-{other.event_name}"
    reserve(offline, name)
    refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: settle(offline, name, other))
    extend = api.ExtendReservationRequest(reservation_id=name, event=other)
    refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: offline.stub.ExtendReservation(extend, timeout=5))
    settle(offline, name, event(90))
    (found,) = recorded(offline, name)
    assert (found.event.customer_id, found.event.event_name) == ("acme", "llm_inference")


def test_the_content_is_what_is_recorded(tmp_path: Path, offline: Offline) -> None:
    """The same reservation through two sidecars: with the same totals the records have the same content, whatever was
    estimated and whenever; with other totals or attributes they have not, so that the books see a conflict.
    """
    write_snapshot(tmp_path, as_of=datetime.now(UTC))
    with offline_sidecar(tmp_path) as second:
        for name, told in (
            ("agreed", event(90)),
            ("more", event(91)),
            ("dearer", event(90, attributes={"model": "text-gen-v4"})),
        ):
            reserve(offline, name)
            reserve(second, name)
            settle(offline, name, event(90))
            settle(second, name, told)
        hashes = {
            name: {found.content_hash for to in (offline, second) for found in recorded(to, name)}
            for name in ("agreed", "more", "dearer")
        }
    assert {name: len(found) for name, found in hashes.items()} == {"agreed": 1, "more": 2, "dearer": 2}


def test_amounts_that_nothing_holds_change_nothing(offline: Offline) -> None:
    """A settle or an extension beyond 63 bits is malformed; the reservation goes on as it was."""
    reserve(offline, "huge")
    huge = event(10**30)
    for final in (False, True):
        refused(
            grpc.StatusCode.INVALID_ARGUMENT,
            lambda final=final: settle(offline, "huge", huge, final=final),
        )
    extend = api.ExtendReservationRequest(reservation_id="huge", event=huge)
    refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: offline.stub.ExtendReservation(extend, timeout=5))
    settle(offline, "huge", event(90))
    assert [dict(found.event.measures) for found in recorded(offline, "huge")] == [{"input_tokens": "90"}]
    refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: settle(offline, "never-made", huge))


def test_after_a_restart_an_end_waits_for_its_customer(tmp_path: Path) -> None:
    """While nobody here knows the customer any more, a reservation whose time has run out goes on holding; a final
    settle is answered all the same, as a fact, because there is no control plane to be waited for.
    """
    write_snapshot(tmp_path, as_of=datetime.now(UTC))
    with offline_sidecar(tmp_path) as first:
        for name in ("waits", "told", "unused"):
            reserve(first, name)
        settle(first, "waits", event(40), final=False)
    (tmp_path / "view.snapshot").unlink()
    clock = ShiftedClock()
    with offline_sidecar(tmp_path, clock=clock) as second:
        answer = settle(second, "told", event(90))
        assert answer.reservation.state == api.RESERVATION_STATE_SETTLED
        (fact,) = recorded(second, "told")
        assert not fact.decided
        clock.advance(600)
        is_over(second, "unused")
        second.sidecar._expiry()
        assert recorded(second, "waits") == []
        assert second.sidecar._desk._open.keys() == {"waits"}
