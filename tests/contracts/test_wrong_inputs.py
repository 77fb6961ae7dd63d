"""The table of wrong inputs, row by row, over a real port; each with nothing changed."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from purser.v1 import decision_pb2 as answers
from purser.v1 import entitlement_service_pb2 as api
from purser.v1 import usage_pb2 as usage
from tests.contracts.offline import Offline, offline_sidecar, write_snapshot
from tests.e2e.fleet import eventually

METHODS = {
    api.CheckAccessRequest: "CheckAccess",
    api.BatchCheckAccessRequest: "BatchCheckAccess",
    api.ConsumeUsageRequest: "ConsumeUsage",
    api.ReportUsageRequest: "ReportUsage",
    api.ReserveUsageRequest: "ReserveUsage",
    api.SettleReservationRequest: "SettleReservation",
    api.ExtendReservationRequest: "ExtendReservation",
    api.ReleaseReservationRequest: "ReleaseReservation",
    api.ListEntitlementsRequest: "ListEntitlements",
}


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Offline]:
    """One sidecar for all rows: none of them changes it."""
    folder = tmp_path_factory.mktemp("sidecar")
    write_snapshot(folder, as_of=datetime.now(UTC))
    with offline_sidecar(folder) as running:
        yield running


def call(offline: Offline, request: Any) -> Any:
    """Sends a request to its method."""
    return getattr(offline.stub, METHODS[type(request)])(request, timeout=5)


def event(key: str = "key", *, at: datetime | None = None, **fields: Any) -> usage.UsageEvent:
    """An event that is right unless a field says otherwise."""
    given = {
        "customer_id": "acme",
        "event_name": "llm_inference",
        "measures": {"input_tokens": "412"},
    } | fields
    message = usage.UsageEvent(idempotency_key=key, **given)
    if at is not None:
        message.occurred_at.FromDatetime(at)
    return message


def consume(**fields: Any) -> api.ConsumeUsageRequest:
    """A consume of one event."""
    return api.ConsumeUsageRequest(event=event(**fields))


def details(error: grpc.RpcError, kind: type[Any]) -> Any:
    """The detail of that kind in an error's status."""
    status = rpc_status.from_call(cast("grpc.Call", error))
    assert status is not None, "every error has a status with details"
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            found = kind()
            packed.Unpack(found)
            return found
    raise AssertionError(f"no {kind.__name__} in {status}")


def refused(offline: Offline, request: Any) -> grpc.RpcError:
    """The error of a call that must fail, leave no record, and carry ErrorInfo of our domain."""
    before = offline.written()
    with pytest.raises(grpc.RpcError) as caught:
        call(offline, request)
    assert offline.written() == before
    assert details(caught.value, error_details_pb2.ErrorInfo).domain == "purser.dev"
    return caught.value


LONG = "x" * 256
MALFORMED = [
    ("no ids", api.CheckAccessRequest(feature="sso"), "customer_id"),
    ("no feature", api.CheckAccessRequest(customer_id="acme"), "feature"),
    ("long id", api.CheckAccessRequest(customer_id=LONG, feature="sso"), "customer_id"),
    ("long id in bytes", api.CheckAccessRequest(customer_id="ü" * 128, feature="sso"), "customer_id"),
    ("NUL", api.CheckAccessRequest(customer_id="a\0b", feature="sso"), "customer_id"),
    (
        "quantity of letters",
        api.CheckAccessRequest(customer_id="acme", feature="quota", quantity="ten"),
        "quantity",
    ),
    (
        "quantity of a card",
        api.CheckAccessRequest(customer_id="acme", feature="chat", quantity="1"),
        "quantity",
    ),
    (
        "negative quantity",
        api.CheckAccessRequest(customer_id="acme", feature="quota", quantity="-1"),
        "quantity",
    ),
    (
        "negative age",
        api.CheckAccessRequest(customer_id="acme", feature="sso", max_staleness=Duration(seconds=-1)),
        "max_staleness",
    ),
    (
        "negative revision",
        api.CheckAccessRequest(customer_id="acme", feature="sso", min_revision=-1),
        "min_revision",
    ),
    ("empty batch", api.BatchCheckAccessRequest(), "requests"),
    (
        "large batch",
        api.BatchCheckAccessRequest(
            requests=[api.CheckAccessRequest(customer_id="acme", feature="sso")] * 1001
        ),
        "requests",
    ),
    (
        "one of a batch",
        api.BatchCheckAccessRequest(
            requests=[
                api.CheckAccessRequest(customer_id="acme", feature="sso"),
                api.CheckAccessRequest(feature="sso"),
            ]
        ),
        "requests[1].customer_id",
    ),
    ("no event", api.ConsumeUsageRequest(), "event"),
    ("no key", consume(key=""), "event.idempotency_key"),
    ("long key", consume(key=LONG), "event.idempotency_key"),
    ("no event name", consume(event_name=""), "event.event_name"),
    ("no number", consume(measures={"input_tokens": "many"}), 'event.measures["input_tokens"]'),
    ("empty number", consume(measures={"input_tokens": ""}), 'event.measures["input_tokens"]'),
    ("NaN", consume(measures={"input_tokens": "NaN"}), 'event.measures["input_tokens"]'),
    ("infinity", consume(measures={"input_tokens": "Infinity"}), 'event.measures["input_tokens"]'),
    ("exponent", consume(measures={"input_tokens": "1e3"}), 'event.measures["input_tokens"]'),
    ("negative", consume(measures={"input_tokens": "-1"}), 'event.measures["input_tokens"]'),
    ("digits of another script", consume(measures={"input_tokens": "٣"}), 'event.measures["input_tokens"]'),
    ("61 digits", consume(measures={"input_tokens": "9" * 61}), 'event.measures["input_tokens"]'),
    ("beyond 63 bits", consume(measures={"input_tokens": "9" * 40}), "event.measures"),
    (
        "part above its whole",
        consume(measures={"input_tokens": "1", "cached_input_tokens": "2"}),
        'event.measures["cached_input_tokens"]',
    ),
    ("33 measures", consume(measures={f"m{n}": "1" for n in range(33)}), "event.measures"),
    ("65 attributes", consume(attributes={f"a{n}": "x" for n in range(65)}), "event.attributes"),
    ("long attribute", consume(attributes={"a": "x" * 1025}), 'event.attributes["a"]'),
    (
        "holder missing",
        api.ConsumeUsageRequest(feature="seats", event=event(gauge_change=usage.GAUGE_CHANGE_ADD)),
        "event.holder_id",
    ),
    (
        "two gauges",
        api.ConsumeUsageRequest(
            feature="seats",
            event=event(gauge_change=usage.GAUGE_CHANGE_ADD, holder_id="h", gauge_feature="desks"),
        ),
        "event.gauge_feature",
    ),
    ("consume too late", consume(at=datetime.now(UTC) - timedelta(minutes=6)), "event.occurred_at"),
    ("consume too early", consume(at=datetime.now(UTC) + timedelta(hours=6)), "event.occurred_at"),
    (
        "reserve too late",
        api.ReserveUsageRequest(reservation_id="r", event=event(at=datetime.now(UTC) - timedelta(minutes=6))),
        "event.occurred_at",
    ),
    ("empty report", api.ReportUsageRequest(), "events"),
    ("large report", api.ReportUsageRequest(events=[event(str(n)) for n in range(1001)]), "events"),
    (
        "one of a report",
        api.ReportUsageRequest(events=[event("a"), event("b", measures={"input_tokens": "x"})]),
        'events[1].measures["input_tokens"]',
    ),
    (
        "part in a report",
        api.ReportUsageRequest(events=[event("a"), event("b", measures={"cached_input_tokens": "2"})]),
        'events[1].measures["cached_input_tokens"]',
    ),
    (
        "beyond 63 bits in a report",
        api.ReportUsageRequest(events=[event("a"), event("b", measures={"input_tokens": "9" * 40})]),
        "events[1].measures",
    ),
    (
        "beyond 63 bits of a stranger",
        api.ReportUsageRequest(events=[event("a", customer_id="never", measures={"input_tokens": "9" * 40})]),
        "events[0].measures",
    ),
    (
        "beyond 63 bits of a meter",
        api.ReportUsageRequest(events=[event("a", event_name="job", measures={"points": "9" * 20})]),
        "events[0].measures",
    ),
    (
        "beyond 63 bits in a check",
        api.CheckAccessRequest(customer_id="acme", event=event("", measures={"input_tokens": "9" * 40})),
        "event.measures",
    ),
    (
        "quantity beyond 63 bits",
        api.CheckAccessRequest(customer_id="acme", feature="quota", quantity="9" * 20),
        "quantity",
    ),
    (
        "beyond 63 bits in a reservation",
        api.ReserveUsageRequest(reservation_id="r", event=event(measures={"input_tokens": "9" * 40})),
        "event.measures",
    ),
    (
        "beyond 63 bits in a batch",
        api.BatchCheckAccessRequest(
            requests=[
                api.CheckAccessRequest(customer_id="acme", feature="sso"),
                api.CheckAccessRequest(customer_id="acme", event=event(measures={"input_tokens": "9" * 40})),
            ]
        ),
        "requests[1].event.measures",
    ),
    (
        "age of ten million years",
        api.CheckAccessRequest(customer_id="acme", feature="sso", max_staleness=Duration(seconds=10**15)),
        "max_staleness",
    ),
    ("no reservation id", api.ReserveUsageRequest(event=event()), "reservation_id"),
    ("ttl of nothing", api.ReserveUsageRequest(reservation_id="r", event=event(), ttl=Duration()), "ttl"),
    (
        "ttl of a week",
        api.ReserveUsageRequest(reservation_id="r", event=event(), ttl=Duration(seconds=604_800)),
        "ttl",
    ),
    ("settle without id", api.SettleReservationRequest(event=event()), "reservation_id"),
    (
        "settle of nobody",
        api.SettleReservationRequest(reservation_id="unknown", final=True),
        "event.customer_id",
    ),
    ("extend by nothing", api.ExtendReservationRequest(reservation_id="r"), "ttl"),
    ("release without id", api.ReleaseReservationRequest(), "reservation_id"),
    ("list of nobody", api.ListEntitlementsRequest(), "customer_id"),
]


@pytest.mark.parametrize(
    ("request_", "field"), [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED]
)
def test_malformed_names_the_field(offline: Offline, request_: Any, field: str) -> None:
    """What is malformed is INVALID_ARGUMENT with a BadRequest that names the field, and changes nothing."""
    error = refused(offline, request_)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    fields = {v.field for v in details(error, error_details_pb2.BadRequest).field_violations}
    assert field in fields


def test_malformed_names_every_field(offline: Offline) -> None:
    """All that is wrong is named at once."""
    error = refused(offline, consume(key="", event_name="", measures={"a": "x", "b": "-1"}))
    fields = {v.field for v in details(error, error_details_pb2.BadRequest).field_violations}
    assert fields == {
        "event.idempotency_key",
        "event.event_name",
        'event.measures["a"]',
        'event.measures["b"]',
    }


@pytest.mark.parametrize("text", ["-1", "-1" + "€" * 500])
def test_more_wrong_fields_than_a_status_holds(offline: Offline, text: str) -> None:
    """It is malformed all the same, with the first of them and how many more there are."""
    events = [event(f"m{number}", measures={"input_tokens": text}) for number in range(500)]
    error = refused(offline, api.ReportUsageRequest(events=events))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    fields = [v.field for v in details(error, error_details_pb2.BadRequest).field_violations]
    assert fields[0] == 'events[0].measures["input_tokens"]'
    assert fields[-1] == ""
    assert len(fields) < 100


def test_a_message_above_4_mib_is_malformed(offline: Offline) -> None:
    """Too large is INVALID_ARGUMENT, answered by the handler and not by gRPC."""
    events = [event(str(n), attributes={f"a{i}": "x" * 1024 for i in range(64)}) for n in range(70)]
    error = refused(offline, api.ReportUsageRequest(events=events))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_bytes_that_are_no_message_are_malformed(offline: Offline) -> None:
    """What can not be decoded is INVALID_ARGUMENT too."""
    send: Any = offline.channel.unary_unary("/purser.v1.EntitlementService/ConsumeUsage")
    with pytest.raises(grpc.RpcError) as caught:
        send(b"\xff\xff\xff", timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(caught.value, error_details_pb2.ErrorInfo).reason == "MALFORMED"


def test_one_faulty_event_of_several_is_rejected_alone(offline: Offline) -> None:
    """Too old, in the future and unknown event names are REJECTED with their reason; the others proceed."""
    now = datetime.now(UTC)
    before = offline.written()
    results = call(
        offline,
        api.ReportUsageRequest(
            events=[
                event("good"),
                event("old", at=now - timedelta(days=35)),
                event("ahead", at=now + timedelta(minutes=6)),
                event("unknown", event_name="never_heard_of"),
                event("late", at=now - timedelta(days=33)),
            ]
        ),
    ).results
    assert [api.UsageStatus.Name(r.status) for r in results] == [
        "USAGE_STATUS_ACCEPTED",
        "USAGE_STATUS_REJECTED",
        "USAGE_STATUS_REJECTED",
        "USAGE_STATUS_REJECTED",
        "USAGE_STATUS_ACCEPTED",
    ]
    assert [api.RejectReason.Name(r.reason) for r in results[1:4]] == [
        "REJECT_REASON_TOO_OLD",
        "REJECT_REASON_IN_THE_FUTURE",
        "REJECT_REASON_UNKNOWN_EVENT",
    ]
    assert offline.written() == before + 2


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (api.CheckAccessRequest(customer_id="ghost", feature="sso"), answers.REASON_CUSTOMER_NOT_FOUND),
        (api.CheckAccessRequest(customer_id="acme", feature="nope"), answers.REASON_FEATURE_NOT_FOUND),
        (api.CheckAccessRequest(customer_id="acme", feature="calls"), answers.REASON_NOT_ENTITLED),
        (
            api.CheckAccessRequest(customer_id="acme", subject_id="stranger", feature="sso"),
            answers.REASON_SUBJECT_NOT_FOUND,
        ),
        (
            api.CheckAccessRequest(customer_id="never", feature="sso"),
            answers.REASON_CONTROL_PLANE_UNREACHABLE,
        ),
        (api.CheckAccessRequest(subject_id="never", feature="sso"), answers.REASON_CONTROL_PLANE_UNREACHABLE),
        (
            api.ConsumeUsageRequest(event=event("q", event_name="job", measures={"points": "1"})),
            answers.REASON_CONTROL_PLANE_UNREACHABLE,
        ),
        (api.ConsumeUsageRequest(event=event("g", customer_id="ghost")), answers.REASON_CUSTOMER_NOT_FOUND),
    ],
)
def test_an_unknown_or_refused_one_is_a_decision(
    offline: Offline, request_: Any, reason: answers.Reason.ValueType
) -> None:
    """Unknown customers, subjects and features, what is not entitled or has no balance: an answer, not an error."""
    before = offline.written()
    decision = call(offline, request_).decision
    assert not decision.allowed
    assert answers.Reason.Name(decision.reason) == answers.Reason.Name(reason)
    assert decision.decision_id
    assert offline.written() == before


def test_a_fact_of_an_unknown_customer_is_kept(offline: Offline) -> None:
    """A reported fact is recorded although nobody here knows its customer."""
    before = offline.written()
    (result,) = call(offline, api.ReportUsageRequest(events=[event("fact", customer_id="never")])).results
    assert result.status == api.USAGE_STATUS_ACCEPTED
    assert offline.written() == before + 1


def test_a_key_again(offline: Offline) -> None:
    """The same content is the first answer again; other content is ALREADY_EXISTS, in a report REJECTED with
    KEY_CONFLICT.
    """
    first = call(offline, consume(key="again"))
    assert first.status == api.USAGE_STATUS_ACCEPTED
    before = offline.written()
    again = call(offline, consume(key="again"))
    assert again.status == api.USAGE_STATUS_DUPLICATE
    assert again.decision == first.decision
    error = refused(offline, consume(key="again", measures={"input_tokens": "413"}))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    same, other = call(
        offline,
        api.ReportUsageRequest(events=[event("again"), event("again", measures={"input_tokens": "1"})]),
    ).results
    assert same.status == api.USAGE_STATUS_DUPLICATE
    assert (other.status, other.reason) == (api.USAGE_STATUS_REJECTED, api.REJECT_REASON_KEY_CONFLICT)
    assert offline.written() == before


def test_a_reservation_id_again(offline: Offline) -> None:
    """The same content is the first answer again; other content is ALREADY_EXISTS."""
    request = api.ReserveUsageRequest(reservation_id="twice", event=event(""))
    first = call(offline, request)
    assert first.decision.allowed
    assert call(offline, request).decision == first.decision
    other = api.ReserveUsageRequest(reservation_id="twice", event=event("", measures={"input_tokens": "1"}))
    assert refused(offline, other).code() is grpc.StatusCode.ALREADY_EXISTS


def test_a_settle_after_final(offline: Offline) -> None:
    """The same settle is the same answer; another is FAILED_PRECONDITION; one event was made."""
    call(offline, api.ReserveUsageRequest(reservation_id="once", event=event("")))
    before = offline.written()
    settle = api.SettleReservationRequest(reservation_id="once", event=event(""), final=True)
    first = call(offline, settle)
    assert first.reservation.state == api.RESERVATION_STATE_SETTLED
    assert offline.written() == before + 1
    assert call(offline, settle) == first
    other = api.SettleReservationRequest(
        reservation_id="once", event=event("", measures={"input_tokens": "999"}), final=True
    )
    assert refused(offline, other).code() is grpc.StatusCode.FAILED_PRECONDITION


def test_measures_of_a_settle_never_fall(offline: Offline) -> None:
    """A settle that says less than an earlier one is malformed."""
    call(offline, api.ReserveUsageRequest(reservation_id="falls", event=event("")))
    call(offline, api.SettleReservationRequest(reservation_id="falls", event=event("")))
    less = api.SettleReservationRequest(
        reservation_id="falls", event=event("", measures={"input_tokens": "1"})
    )
    error = refused(offline, less)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_settle_of_an_expired_reservation(offline: Offline) -> None:
    """What exceeds the totals charged is recorded as a fact with the key `<id>#late`, once."""
    ttl = Duration(nanos=1_000_000)
    made = call(offline, api.ReserveUsageRequest(reservation_id="too-late", event=event(""), ttl=ttl))
    ends_at = made.reservation.expires_at.ToDatetime(UTC)
    eventually(lambda: datetime.now(UTC) > ends_at, seconds=5, what="its time has run out")
    before = offline.written()
    offline.sidecar._expiry()
    settle = api.SettleReservationRequest(reservation_id="too-late", event=event(""), final=True)
    answer = call(offline, settle)
    assert answer.reservation.state == api.RESERVATION_STATE_EXPIRED
    assert answer.recorded_as == "too-late#late"
    assert call(offline, settle) == answer
    assert offline.written() == before + 1


def test_a_settle_of_an_unknown_reservation(offline: Offline) -> None:
    """All of it is recorded as a fact with the reservation's id as the key, once."""
    before = offline.written()
    settle = api.SettleReservationRequest(reservation_id="never-made", event=event(""), final=True)
    answer = call(offline, settle)
    assert answer.reservation.state == api.RESERVATION_STATE_UNSPECIFIED
    assert answer.recorded_as == "never-made"
    assert call(offline, settle) == answer
    assert offline.written() == before + 1
