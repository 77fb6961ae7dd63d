"""Whatever a caller sends, a sidecar answers with a decision or with a status of the table; it never fails inside."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purser.v1 import entitlement_service_pb2 as api
from purser.v1 import usage_pb2 as usage
from sidecar.edge import NetworkEdge
from sidecar.rpc.server import SERVICE
from tests.contracts.offline import Offline, offline_sidecar, write_snapshot

CATALOG = """
purser: catalog/v1
units:
  usd: {name: US dollar, kind: currency, scale: 9}
  credit: {name: credit, kind: credit, scale: 0}
meters:
  calls: {event: call, aggregate: count}
  points: {event: job, aggregate: sum, of: [points]}
  peak: {event: job, aggregate: max, of: [points]}
  users: {event: call, aggregate: unique, of: user}
  tokens: {event: llm_inference, aggregate: sum, of: [input_tokens, output_tokens]}
rate_cards:
  llm:
    event: llm_inference
    unit: usd
    by: model
    unknown: deny
    parts: {cached_input_tokens: input_tokens}
    prices:
      m1:
        - {dimension: input_tokens, per: 1000, price: "0.003"}
        - {dimension: cached_input_tokens, per: 1000, price: "0.0003"}
        - {dimension: output_tokens, per: 7, price: "12"}
    multipliers:
      m1:
        - measure: context_window
          else_sum: [input_tokens, output_tokens]
          tiers: [{up_to: 8192, times: "1.0"}, {up_to: 32768, times: "1.8"}]
  jobs: {event: job, unit: credit, unknown: allow, prices: [{dimension: points, per: 3, price: "2"}]}
features:
  chat:
    {type: metered, event: llm_inference, rate_card: llm, requires: [{measure: context_window, at_most: max_context}]}
  jobs: {type: metered, event: job, rate_card: jobs, trouble: {on_unreachable: allow}}
  more: {type: metered, event: job, rate_card: jobs, trouble: {on_unreachable: {allow_up_to: 50}}}
  calls: {type: metered, meter: calls, trouble: {on_unreachable: allow}}
  users: {type: metered, meter: users}
  peak: {type: metered, meter: peak}
  quota: {type: metered, meter: points, trouble: {on_unreachable: allow}}
  sso: {type: switch}
  max_context: {type: config, value: integer}
  seats: {type: gauge, trouble: {on_unreachable: allow}}
  open: {type: metered, event: call, meter: calls, trouble: {on_unknown_customer: allow}}
plans:
  payg:
    entitlements:
      chat:
        included: {meter: tokens, amount: 1000, every: P1M}
        overage: {allow: {charge: llm}}
        rate: [{meter: tokens, limit: 100000, per: PT1M}]
      jobs: {spends: credit, overage: allow}
      more: {spends: credit, overage: {allow_up_to: 5}}
      calls: {limit: 10, every: P1D, overage: allow}
      users: {limit: 5, every: P1M}
      peak: {limit: 100, every: P1M}
      quota: {limit: 100, every: P1M, overage: {allow_up_to: 10}}
      seats: {limit: 2}
      sso: true
      max_context: 8192
    budgets: [{name: daily, scope: subject, unit: credit, limit: "50", every: P1D, anchor: calendar, overage: allow}]
"""

REQUESTS = {
    "CheckAccess": api.CheckAccessRequest,
    "BatchCheckAccess": api.BatchCheckAccessRequest,
    "ConsumeUsage": api.ConsumeUsageRequest,
    "ReportUsage": api.ReportUsageRequest,
    "ReserveUsage": api.ReserveUsageRequest,
    "SettleReservation": api.SettleReservationRequest,
    "ExtendReservation": api.ExtendReservationRequest,
    "ReleaseReservation": api.ReleaseReservationRequest,
    "ListEntitlements": api.ListEntitlementsRequest,
    "WatchEntitlements": api.WatchEntitlementsRequest,
}
EXPECTED = {
    code_pb2.OK,
    code_pb2.INVALID_ARGUMENT,
    code_pb2.ALREADY_EXISTS,
    code_pb2.FAILED_PRECONDITION,
    code_pb2.NOT_FOUND,
}
"""What a healthy sidecar answers: no disk is full, nothing is overloaded."""

MAX, MIN = 2**63 - 1, -(2**63)
LONG = "x" * 256


def mostly(usual: st.SearchStrategy[Any], *odd: Any) -> st.SearchStrategy[Any]:
    """As usual, but now and then odd: else nothing would come through to where it is decided."""
    return st.sampled_from([usual] * 14 + [st.sampled_from(odd)]).flatmap(lambda chosen: chosen)


customers = mostly(st.just("acme"), "", "ghost", "never", LONG, "ü" * 130, "a\0b", "\U0001f600")
subjects = mostly(st.sampled_from(["", "", "ann"]), "stranger", "never", LONG, "\0")
labels = mostly(st.just(""), "app", LONG, "\0")
names = mostly(st.sampled_from(["call", "job", "llm_inference"]), "", "unheard of", LONG)
features = mostly(
    st.sampled_from(
        [
            "",
            "",
            "chat",
            "jobs",
            "more",
            "calls",
            "users",
            "peak",
            "quota",
            "sso",
            "max_context",
            "seats",
            "open",
        ]
    ),
    "nope",
    "\0",
    LONG,
)
numbers = mostly(
    st.one_of(
        st.integers(0, 20_000).map(str),
        st.sampled_from(["0.5", "0." + "0" * 58 + "1", "0" * 60, "9" * 12, "9" * 18]),
        st.sampled_from(
            [str(MAX), str(MAX + 1), "9" * 19, "6" + "0" * 18, "1" * 30 + "." + "1" * 30, "9" * 60]
        ),
    ),
    *("", "-1", "NaN", "1e5", ".", "1.", ".5", "٣", "9" * 61, "x" * 5000),
)
measures = st.dictionaries(
    mostly(
        st.sampled_from(
            ["points", "input_tokens", "output_tokens", "cached_input_tokens", "context_window", "quantity"]
        ),
        *("", "ü" * 130),
    ),
    numbers,
    max_size=3,
)
attributes = st.dictionaries(
    mostly(st.sampled_from(["model", "user"]), "", "x"),
    mostly(st.sampled_from(["m1", "m1", "m2", ""]), "x" * 1025, "\0"),
    max_size=2,
)
first, last = -62_135_596_800, 253_402_300_799
"""Of what a Timestamp may say."""
seconds = st.sampled_from(
    [0, 1, -1, 60, 86_400, 10**9, 10**12, 10**15, MAX, MIN, first, first - 1, last, last + 1]
)
nanos = st.sampled_from([0, 1, 999_999_999, 1_000_000_000, -1, 2**31 - 1, -(2**31)])
now = st.builds(lambda: Timestamp(seconds=int(datetime.now(UTC).timestamp())))
instants = st.sampled_from(
    [st.none()] * 6 + [now] * 3 + [st.builds(Timestamp, seconds=seconds, nanos=nanos)]
).flatmap(lambda chosen: chosen)
spans = st.sampled_from(
    [st.none()] * 6
    + [st.just(Duration(seconds=60))] * 3
    + [st.builds(Duration, seconds=seconds, nanos=nanos)]
).flatmap(lambda chosen: chosen)
revisions = mostly(st.just(0), 1, 7, -1, MAX, MIN)
reservations = mostly(st.integers(0, 30).map(lambda number: f"r{number}"), "", LONG)
gauges: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    holder_id=mostly(st.just("ann"), "", LONG),
    gauge_change=mostly(st.sampled_from([1, 2, 3]), 0, 99, -1),
    gauge_feature=mostly(st.sampled_from(["", "seats"]), "nope", LONG),
)
events = st.builds(
    lambda gauge, **fields: usage.UsageEvent(**fields, **gauge),
    gauge=st.sampled_from([st.just({})] * 8 + [gauges]).flatmap(lambda chosen: chosen),
    idempotency_key=mostly(st.integers(0, 3000).map(lambda number: f"k{number}"), "", "r1", "r1#late", LONG),
    customer_id=customers,
    subject_id=subjects,
    app_id=labels,
    event_name=names,
    measures=measures,
    attributes=attributes,
    occurred_at=instants,
    correlation_id=labels,
)
maybe_event = st.sampled_from([events] * 9 + [st.none()]).flatmap(lambda chosen: chosen)


def asked(what: tuple[str, Any], **fields: Any) -> api.CheckAccessRequest:
    """A check of an event, of a quantity, or of neither."""
    kind, value = what
    return api.CheckAccessRequest(**fields, **({kind: value} if kind else {}))


checks = st.builds(
    asked,
    what=st.one_of(
        st.tuples(st.just("event"), events), st.tuples(st.just("quantity"), numbers), st.just(("", ""))
    ),
    customer_id=customers,
    subject_id=subjects,
    feature=features,
    max_staleness=spans,
    min_revision=revisions,
    explain=st.booleans(),
)
requests = st.one_of(
    checks,
    st.builds(api.BatchCheckAccessRequest, requests=st.lists(checks, max_size=3)),
    st.builds(
        api.ConsumeUsageRequest,
        event=maybe_event,
        feature=features,
        min_revision=revisions,
        explain=st.booleans(),
    ),
    st.builds(api.ReportUsageRequest, events=st.lists(events, max_size=2)),
    st.builds(
        api.ReserveUsageRequest,
        reservation_id=reservations,
        event=maybe_event,
        feature=features,
        ttl=spans,
        min_revision=revisions,
        explain=st.booleans(),
    ),
    st.builds(
        api.SettleReservationRequest, reservation_id=reservations, event=maybe_event, final=st.booleans()
    ),
    st.builds(api.ExtendReservationRequest, reservation_id=reservations, event=maybe_event, ttl=spans),
    st.builds(api.ReleaseReservationRequest, reservation_id=reservations),
    st.builds(api.ListEntitlementsRequest, customer_id=customers, subject_id=subjects),
    st.builds(api.WatchEntitlementsRequest, customer_id=customers, subject_id=subjects),
)
thorough = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


class Ended(Exception):
    """The call was ended with a status."""


class Context:
    """What a behavior needs of its call: a caller with little time, who does not stay for a stream."""

    status = status_pb2.Status()

    def time_remaining(self) -> float:
        """Not long."""
        return 0.03

    def is_active(self) -> bool:
        """Gone before a watch says anything."""
        return False

    def add_callback(self, callback: Any) -> bool:
        """It is over already."""
        return False

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Keeps the status's details."""
        for key, value in status.trailing_metadata or ():
            if key == "grpc-status-details-bin":
                self.status = status_pb2.Status.FromString(cast("bytes", value))
        raise Ended


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Offline]:
    """One sidecar for all requests: what one leaves behind is what the next one meets."""
    folder = tmp_path_factory.mktemp("sidecar")
    write_snapshot(folder, as_of=datetime.now(UTC), catalog=CATALOG)
    with offline_sidecar(folder) as running:
        yield running


def answered(offline: Offline, rpc: str, raw: bytes) -> status_pb2.Status:
    """The status that these bytes end in, past the socket."""
    edge = offline.sidecar._edge
    assert isinstance(edge, NetworkEdge)
    found = cast("Any", edge.api._handlers._methods[f"/{SERVICE}/{rpc}"].handler)
    context = Context()
    try:
        if found.response_streaming:
            list(found.unary_stream(raw, context))
        else:
            response = found.unary_unary(raw, context)
            getattr(api, f"{rpc}Response").FromString(response)
    except Ended:
        assert context.status.code, "every error has a status with details"
    return context.status


def is_foreseen(offline: Offline, rpc: str, raw: bytes) -> None:
    """It is answered, or ends in a status of the table with ErrorInfo, and then nothing is written."""
    before = offline.written()
    status = answered(offline, rpc, raw)
    assert status.code in EXPECTED, status
    if status.code:
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert info.domain == "purser.dev"
        assert offline.written() == before


@thorough
@given(requests)
def test_any_request_is_foreseen(offline: Offline, request_: Any) -> None:
    """Ids, numbers, times and spans of every size, in every field of every rpc."""
    rpc = type(request_).__name__.removesuffix("Request")
    is_foreseen(offline, rpc, request_.SerializeToString())


@thorough
@given(st.sampled_from(sorted(REQUESTS)), st.binary(max_size=200))
def test_any_bytes_are_foreseen(offline: Offline, rpc: str, raw: bytes) -> None:
    """What is no message at all, or one of something else."""
    is_foreseen(offline, rpc, raw)
