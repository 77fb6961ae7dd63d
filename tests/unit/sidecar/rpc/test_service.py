"""Each rpc, from its request to what a verb is asked, and from what that answers or raises to what the caller hears."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from purser.v1 import decision_pb2 as answers
from purser.v1 import entitlement_service_pb2 as api
from purser.v1 import usage_pb2 as usage
from sidecar.deciding import errors
from sidecar.deciding.consume import Consumed
from sidecar.deciding.entitlements import Entitled, Entitlement, Held
from sidecar.deciding.holding import ExtendAnswer, ReserveAnswer, SettleAnswer, Standing
from sidecar.deciding.report import RejectReason, ReportResult, UsageStatus
from sidecar.engine.decision import Amount, Freshness, ViewSource
from sidecar.engine.reservation import ReservationState
from sidecar.engine.values import Reason
from sidecar.rpc.service import ANSWER_SECONDS, ANSWER_SHARE
from sidecar.runtime.trouble import NotWritten, OutcomeUnknown, Resolution
from tests.unit.sidecar.rpc.fakes import Caller, FakeVerbs, Told, Watched

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALLOWED = answers.Decision(decision_id="d1", allowed=True, reason=answers.REASON_OK)
ENCODED = ALLOWED.SerializeToString()
EVENT = usage.UsageEvent(
    idempotency_key="k", customer_id="acme", event_name="job", measures={"points": "7.50"}
)
USD = Amount("usd", 1_500_000_000, 9)
HELD = (Held("wallet:usd", USD),)
OPEN = Standing("r1", ReservationState.OPEN, AT, HELD)
FRESH = Freshness(revision=7, as_of=AT, age=timedelta(0), source=ViewSource.LIVE)


@pytest.fixture
def verbs() -> FakeVerbs:
    """They answer what a test tells them to."""
    return FakeVerbs()


@pytest.fixture
def caller(verbs: FakeVerbs) -> Caller:
    """Calls the edge above them."""
    return Caller(verbs)


def heard(told: Told) -> Any:
    """The response of a call that went well."""
    assert told.code is grpc.StatusCode.OK
    return told.response


def test_check_access(verbs: FakeVerbs, caller: Caller) -> None:
    """The question as it was put, until a little before the caller stops waiting; the decision as it was encoded."""
    verbs.check.answer = ENCODED
    request = api.CheckAccessRequest(
        customer_id="acme",
        feature="chat",
        quantity="2",
        max_staleness=Duration(seconds=1, nanos=500_000_000),
        min_revision=3,
    )
    assert heard(caller.call("CheckAccess", request, timeout=5)).decision == ALLOWED
    ((question,), told) = verbs.check.asked[0]
    assert (question.customer_id, question.feature, question.quantity) == ("acme", "chat", "2")
    assert (question.max_staleness, question.min_revision) == (timedelta(seconds=1.5), 3)
    assert question.event is None
    assert told["deadline"] == pytest.approx(verbs.clock.monotonic() + 5 * (1 - ANSWER_SHARE))
    heard(caller.call("CheckAccess", request, timeout=0.1))
    assert verbs.check.asked[1][1]["deadline"] == pytest.approx(
        verbs.clock.monotonic() + 0.1 - ANSWER_SECONDS
    )


def test_batch_check_access(verbs: FakeVerbs, caller: Caller) -> None:
    """A decision for each question, in order."""
    verbs.check.answer = ENCODED
    asked = [api.CheckAccessRequest(customer_id="acme", feature=name) for name in ("sso", "chat")]
    response = heard(caller.call("BatchCheckAccess", api.BatchCheckAccessRequest(requests=asked)))
    assert list(response.decisions) == [ALLOWED, ALLOWED]
    assert [args[0].feature for args, _ in verbs.check.asked] == ["sso", "chat"]


def test_a_batch_names_the_item_that_is_wrong(verbs: FakeVerbs, caller: Caller) -> None:
    """What only deciding finds out is named where it stands in the request."""
    verbs.check.answer = errors.Malformed([errors.Violation("event.measures", "is too large")])
    asked = [api.CheckAccessRequest(customer_id="acme", feature=name) for name in ("sso", "chat")]
    told = caller.call("BatchCheckAccess", api.BatchCheckAccessRequest(requests=asked))
    fields = [violation.field for violation in told.details["BadRequest"].field_violations]
    assert fields == ["requests[0].event.measures", "requests[1].event.measures"]


def test_consume_usage(verbs: FakeVerbs, caller: Caller) -> None:
    """The event, its content and what was asked beside it; decision and status."""
    verbs.consume.answer = Consumed(ENCODED, UsageStatus.DUPLICATE)
    request = api.ConsumeUsageRequest(event=EVENT, feature="jobs", min_revision=3, explain=True)
    response = heard(caller.call("ConsumeUsage", request))
    assert (response.decision, response.status) == (ALLOWED, api.USAGE_STATUS_DUPLICATE)
    ((asked,), told) = verbs.consume.asked[0]
    assert (asked.message, len(asked.content_hash), asked.occurred_at) == (EVENT, 32, None)
    assert (told["feature"], told["min_revision"], told["explain"]) == ("jobs", 3, True)


def test_report_usage(verbs: FakeVerbs, caller: Caller) -> None:
    """A result for each event, in order."""
    verbs.report.answer = [
        ReportResult("k", UsageStatus.ACCEPTED),
        ReportResult("old", UsageStatus.REJECTED, RejectReason.TOO_OLD, "too old"),
    ]
    response = heard(caller.call("ReportUsage", api.ReportUsageRequest(events=[EVENT, EVENT])))
    accepted, rejected = response.results
    assert (accepted.idempotency_key, accepted.status) == ("k", api.USAGE_STATUS_ACCEPTED)
    assert (rejected.status, rejected.reason, rejected.message) == (
        api.USAGE_STATUS_REJECTED,
        api.REJECT_REASON_TOO_OLD,
        "too old",
    )
    assert [item.message for item in verbs.report.asked[0][0][0]] == [EVENT, EVENT]


def test_reserve_usage(verbs: FakeVerbs, caller: Caller) -> None:
    """The estimate without a key, which is the reservation's id; the decision and how it stands."""
    verbs.reserve.answer = ReserveAnswer(ENCODED, OPEN)
    request = api.ReserveUsageRequest(reservation_id="r1", event=EVENT, ttl=Duration(seconds=60))
    response = heard(caller.call("ReserveUsage", request))
    assert response.decision == ALLOWED
    assert response.reservation.state == api.RESERVATION_STATE_OPEN
    assert [(held.balance, held.amount.value) for held in response.reservation.held] == [
        ("wallet:usd", "1.5")
    ]
    assert response.reservation.expires_at.ToDatetime(UTC) == AT
    (reservation_id, asked), told = verbs.reserve.asked[0]
    assert (reservation_id, asked.message.idempotency_key, told["ttl"]) == ("r1", "", timedelta(minutes=1))


def test_a_reservation_that_is_refused_is_an_answer(verbs: FakeVerbs, caller: Caller) -> None:
    """There is a decision, and no reservation."""
    refused = answers.Decision(reason=answers.REASON_LIMIT_REACHED)
    verbs.reserve.answer = ReserveAnswer(refused.SerializeToString(), None)
    response = heard(caller.call("ReserveUsage", api.ReserveUsageRequest(reservation_id="r1", event=EVENT)))
    assert response.decision == refused
    assert not response.HasField("reservation")


def test_settle_reservation(verbs: FakeVerbs, caller: Caller) -> None:
    """What was used so far; what it charged, gave back and overdrew, and under which key it went instead."""
    verbs.settle.answer = SettleAnswer(
        standing=Standing("r1", ReservationState.EXPIRED, AT, ()),
        charged=HELD,
        returned=HELD,
        overage=HELD,
        recorded_as="r1#late",
    )
    response = heard(
        caller.call(
            "SettleReservation", api.SettleReservationRequest(reservation_id="r1", event=EVENT, final=True)
        )
    )
    assert (response.reservation.state, response.recorded_as) == (api.RESERVATION_STATE_EXPIRED, "r1#late")
    for amounts in (response.charged, response.returned, response.overage):
        assert [(item.balance, item.amount.unit, item.amount.value) for item in amounts] == [
            ("wallet:usd", "usd", "1.5")
        ]
    assert verbs.settle.asked[0][0] == ("r1", EVENT)
    assert verbs.settle.asked[0][1]["final"] is True


def test_extend_reservation(verbs: FakeVerbs, caller: Caller) -> None:
    """With an estimate there is a decision, with more time alone there is none."""
    for event, decision in ((EVENT, ENCODED), (None, None)):
        verbs.extend.answer = ExtendAnswer(decision, OPEN)
        request = api.ExtendReservationRequest(reservation_id="r1", event=event, ttl=Duration(seconds=60))
        response = heard(caller.call("ExtendReservation", request))
        assert response.HasField("decision") is (event is not None)
        assert response.reservation.reservation_id == "r1"
        args, told = verbs.extend.asked[-1]
        assert (args, told["ttl"]) == (("r1", event), timedelta(minutes=1))


def test_release_reservation(verbs: FakeVerbs, caller: Caller) -> None:
    """How it stands afterwards."""
    verbs.release.answer = Standing("r1", ReservationState.RELEASED, AT, ())
    request = api.ReleaseReservationRequest(reservation_id="r1")
    response = heard(caller.call("ReleaseReservation", request))
    assert response.reservation.state == api.RESERVATION_STATE_RELEASED
    assert verbs.release.asked[0][0] == ("r1",)


def entitled(feature: str) -> Entitled:
    """Somebody who may do one thing."""
    return Entitled((Entitlement(feature, "config", Decimal(8192), ("plan pro",), ()),), FRESH, Reason.OK)


def test_list_entitlements(verbs: FakeVerbs, caller: Caller) -> None:
    """Every right with its value and source, and how old that is."""
    verbs.listing.list.answer = entitled("max_context")
    response = heard(
        caller.call("ListEntitlements", api.ListEntitlementsRequest(customer_id="acme", subject_id="ann"))
    )
    (right,) = response.entitlements
    assert (right.feature, right.value.number, list(right.sources)) == ("max_context", "8192", ["plan pro"])
    assert (response.freshness.revision, response.reason) == (7, answers.REASON_OK)
    assert verbs.listing.list.asked[0][0] == ("acme", "ann")


def test_watch_entitlements(verbs: FakeVerbs, caller: Caller) -> None:
    """Every state in order; at the end the watch is forgotten, and it is closed when the caller goes."""
    watched = Watched([entitled("a"), entitled("b")])
    verbs.listing.watch.answer = watched
    told = caller.stream("WatchEntitlements", api.WatchEntitlementsRequest(customer_id="acme"), takes=2)
    assert [response.entitlements[0].feature for response in heard(told)] == ["a", "b"]
    assert verbs.listing.forget.asked[0][0] == (watched,)
    assert watched.closed.wait(10)


CALLS = {
    "CheckAccess": ("check", api.CheckAccessRequest(customer_id="acme", feature="sso")),
    "BatchCheckAccess": (
        "check",
        api.BatchCheckAccessRequest(requests=[api.CheckAccessRequest(customer_id="acme", feature="sso")]),
    ),
    "ConsumeUsage": ("consume", api.ConsumeUsageRequest(event=EVENT)),
    "ReportUsage": ("report", api.ReportUsageRequest(events=[EVENT])),
    "ReserveUsage": ("reserve", api.ReserveUsageRequest(reservation_id="r1", event=EVENT)),
    "SettleReservation": ("settle", api.SettleReservationRequest(reservation_id="r1")),
    "ExtendReservation": ("extend", api.ExtendReservationRequest(reservation_id="r1", event=EVENT)),
    "ReleaseReservation": ("release", api.ReleaseReservationRequest(reservation_id="r1")),
}

FAILURES = [
    (errors.KeyConflict("k"), grpc.StatusCode.ALREADY_EXISTS, "KEY_CONFLICT"),
    (errors.ReservationConflict("r1"), grpc.StatusCode.ALREADY_EXISTS, "RESERVATION_CONFLICT"),
    (errors.ReservationEnded("r1", "SETTLED"), grpc.StatusCode.FAILED_PRECONDITION, "RESERVATION_ENDED"),
    (errors.ReservationUnknown("r1"), grpc.StatusCode.NOT_FOUND, "RESERVATION_UNKNOWN"),
    (NotWritten("the disk is full"), grpc.StatusCode.RESOURCE_EXHAUSTED, "NOT_WRITTEN"),
    (OutcomeUnknown("it broke", Resolution()), grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN"),
    (RuntimeError("a bug"), grpc.StatusCode.INTERNAL, "INTERNAL"),
]


@pytest.mark.parametrize(("failure", "code", "reason"), FAILURES, ids=[row[2] for row in FAILURES])
@pytest.mark.parametrize("rpc", CALLS)
def test_what_a_verb_raises_is_a_status_of_the_table(
    verbs: FakeVerbs, caller: Caller, rpc: str, failure: Exception, code: grpc.StatusCode, reason: str
) -> None:
    """Whatever the rpc, the caller hears the status and its ErrorInfo; nothing of the inside where it is a bug."""
    verb, request = CALLS[rpc]
    getattr(verbs, verb).answer = failure
    told = caller.call(rpc, request)
    assert told.code is code
    assert (told.details["ErrorInfo"].reason, told.details["ErrorInfo"].domain) == (reason, "purser.dev")


@pytest.mark.parametrize("rpc", CALLS)
def test_what_is_malformed_asks_nobody(verbs: FakeVerbs, caller: Caller, rpc: str) -> None:
    """An empty request is INVALID_ARGUMENT with its fields, before any verb is asked."""
    verb, request = CALLS[rpc]
    told = caller.call(rpc, type(request)())
    assert told.code is grpc.StatusCode.INVALID_ARGUMENT
    assert told.details["BadRequest"].field_violations
    assert not getattr(verbs, verb).asked


@pytest.mark.parametrize("rpc", ["ListEntitlements", "WatchEntitlements"])
def test_entitlements_of_nobody(verbs: FakeVerbs, caller: Caller, rpc: str) -> None:
    """Both need a customer or a subject."""
    request = getattr(api, f"{rpc}Request")()
    told = caller.stream(rpc, request, takes=0) if rpc.startswith("Watch") else caller.call(rpc, request)
    assert told.code is grpc.StatusCode.INVALID_ARGUMENT
    assert not verbs.listing.list.asked
    assert not verbs.listing.watch.asked
