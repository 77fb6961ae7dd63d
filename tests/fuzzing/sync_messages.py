"""What a sidecar may say to its control plane: mostly as it should, with something odd here and there."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import decision_pb2 as answers
from purser.v1 import usage_pb2 as usage

MAX, MIN = 2**63 - 1, -(2**63)
LEASE: Final = "lease:"
"""Before a number: stands for a lease that there is, whichever it is by then."""
LONG: Final = "x" * 300


def mostly(usual: st.SearchStrategy[Any], *odd: Any) -> st.SearchStrategy[Any]:
    """As usual, but now and then odd: else nothing would come through to where it counts."""
    return st.sampled_from([usual] * 11 + [st.sampled_from(odd)]).flatmap(lambda chosen: chosen)


def named(prefix: str, last: int) -> st.SearchStrategy[str]:
    """A few names that come again."""
    return st.integers(1, last).map(lambda number: f"{prefix}-{number}")


odd_texts: Final = ("", "\0", LONG, "ü" * 200, "\N{RIGHT-TO-LEFT OVERRIDE}", "';--", "\U0001f600")
amounts = mostly(st.integers(0, 2_000), -1, MAX, MIN, 10**15, 2**31)
numbers = mostly(st.integers(0, 12), -1, MAX, MIN, 2**40)
last_first_instant, last_instant = -62_135_596_800, 253_402_300_799
instants = st.one_of(
    st.none(),
    st.integers(-100_000, 100_000).map(
        lambda seconds: Timestamp(seconds=int((datetime.now(UTC) + timedelta(seconds=seconds)).timestamp()))
    ),
    st.builds(
        Timestamp,
        seconds=st.sampled_from(
            [0, -1, MAX, MIN, last_instant, last_instant + 1, last_first_instant, last_first_instant - 1]
        ),
        nanos=st.sampled_from([0, -1, 999_999_999, 10**9, 2**31 - 1]),
    ),
)
customers = mostly(st.sampled_from(["acme", "acme", "free", "nobody"]), *odd_texts)
features = mostly(st.sampled_from(["api", "", "seats", "sso"]), "nope", *odd_texts)
holders = st.builds(
    session.Holder,
    outbox_id=mostly(named("outbox", 3), *odd_texts),
    incarnation_id=mostly(named("inc", 3), *odd_texts),
    installation_id=mostly(st.just(""), "another", *odd_texts),
)
refs = st.builds(
    session.BalanceRef,
    customer_id=customers,
    subject_id=mostly(st.just(""), "ann", *odd_texts),
    balance=mostly(
        st.sampled_from(
            [
                "wallet:credit",
                "wallet:credit",
                "allowance:api",
                "gauge:seats",
                "rate:api/calls/PT1M",
                "budget:daily",
            ]
        ),
        "wallet:",
        "nothing",
        *odd_texts,
    ),
)
lease_ids = mostly(st.integers(0, 40).map(lambda number: f"{LEASE}{number}"), "no-lease", *odd_texts)
states = st.builds(
    session.IncarnationState, incarnation_id=mostly(named("inc", 3), *odd_texts), last_seq=numbers
)
slices = st.builds(
    session.Slice,
    grant_id=mostly(st.just("paid"), *odd_texts),
    amount=amounts,
    beyond_limit=st.booleans(),
)
presented = st.builds(
    session.PresentedLease,
    lease_id=lease_ids,
    ref=refs,
    slices=st.lists(slices, max_size=2),
    ends_at=instants,
    returned=amounts,
)
openings = st.builds(
    session.OpenSessionRequest,
    holder=holders,
    label=mostly(st.just("deck"), *odd_texts),
    open_incarnations=st.lists(states, max_size=4),
    generation=mostly(st.sampled_from([0, 1]), 2, MAX, MIN),
    presented_leases=st.lists(presented, max_size=2),
)
lease_amounts = st.builds(session.LeaseAmount, lease_id=lease_ids, amount=amounts)
closings = st.builds(
    session.CloseSessionRequest, holder=holders, final_seq=numbers, keep=st.lists(lease_amounts, max_size=3)
)
wants = st.builds(
    session.Want,
    ref=refs,
    feature=features,
    need=amounts,
    amount=amounts,
    next_period=st.booleans(),
    holder_id=mostly(st.just(""), "ann", "bob", *odd_texts),
    adds=st.booleans(),
    occurred_at=instants,
    idempotency_key=mostly(named("key", 20), *odd_texts),
)
uids = st.builds(
    session.RecordUid,
    outbox_id=mostly(named("outbox", 3), *odd_texts),
    incarnation_id=mostly(named("inc", 3), *odd_texts),
    seq=numbers,
)
returns = st.builds(session.LeaseReturn, uid=uids, lease_id=lease_ids, amount=amounts)
given_up = st.builds(session.GivenUp, ref=refs, request_id=mostly(named("request", 60), *odd_texts))
acquiring = st.builds(
    session.AcquireLeasesRequest,
    holder=holders,
    epoch=mostly(st.integers(1, 3), 0, -1, MAX),
    request_id=mostly(named("request", 400), *odd_texts),
    wants=st.lists(wants, max_size=3),
    returns=st.lists(returns, max_size=2),
    given_up=st.lists(given_up, max_size=2),
)
decimals = mostly(
    st.sampled_from(["1", "0.5", "20", "0"]),
    "",
    "NaN",
    "-1",
    "1e5",
    "9" * 70,
    "1" * 30 + "." + "1" * 29,
    "\0",
)
events = st.builds(
    usage.UsageEvent,
    idempotency_key=mostly(named("key", 60), *odd_texts),
    customer_id=customers,
    subject_id=mostly(st.just(""), "ann", *odd_texts),
    event_name=mostly(st.sampled_from(["call", "call", "login"]), *odd_texts),
    measures=st.dictionaries(mostly(st.sampled_from(["size", "quantity"]), *odd_texts), decimals, max_size=2),
    attributes=st.dictionaries(mostly(st.just("model"), *odd_texts), st.sampled_from(odd_texts), max_size=2),
    occurred_at=instants,
    holder_id=mostly(st.just(""), "ann", *odd_texts),
    gauge_change=mostly(st.just(0), 1, 2, 3, 99, -1),
    gauge_feature=mostly(st.just(""), "seats", *odd_texts),
)
charges = st.builds(
    sync.Charge,
    ref=refs,
    covered=st.lists(lease_amounts, max_size=2),
    uncovered=amounts,
    exact=decimals,
    feature=features,
)
costs = st.builds(
    sync.Cost,
    feature=features,
    rate_card=mostly(st.just("api"), *odd_texts),
    catalog_revision=mostly(st.just(1), 0, -1, MAX),
    unit=mostly(st.just("credit"), *odd_texts),
    amount=amounts,
    exact=decimals,
    billed=amounts,
    billed_exact=decimals,
)
used = st.builds(
    sync.Usage,
    event=events,
    content_hash=mostly(st.just(b"h" * 32), b"", b"h", b"h" * 5000),
    decided=st.booleans(),
    decision_id=mostly(named("dec", 60), *odd_texts),
    decided_at=instants,
    view_revision=numbers,
    charges=st.lists(charges, max_size=2),
    costs=st.lists(costs, max_size=2),
    by_verdict=st.booleans(),
)
bodies: st.SearchStrategy[dict[str, Any]] = st.one_of(
    used.map(lambda made: {"usage": made}),
    used.map(lambda made: {"usage": made}),
    st.builds(sync.ReturnedAmount, lease_id=lease_ids, amount=amounts).map(lambda made: {"returned": made}),
    st.binary(max_size=40).map(lambda made: {"garbled": made}),
    st.just({}),
)


@st.composite
def batches(draw: st.DrawFn) -> sync.ReportBatchRequest:
    """A run of an outbox: mostly the next numbers; `to_real` puts in which these are."""
    run = draw(st.lists(bodies, max_size=4))
    first = draw(mostly(st.just(1), 0, 2, -1, MAX - 9, MIN + 9))
    return sync.ReportBatchRequest(
        holder=draw(holders),
        first_seq=first,
        last_seq=draw(mostly(st.just(first + len(run) - 1), 0, MAX, MIN)),
        records=[
            sync.Record(
                seq=draw(mostly(st.just(first + index), 0, MAX)),
                first_written=draw(mostly(st.none(), session.RecordUid(), *_odd_uids())),
                **body,
            )
            for index, body in enumerate(run)
        ],
    )


def _odd_uids() -> tuple[session.RecordUid, ...]:
    return (
        session.RecordUid(outbox_id="outbox-9", incarnation_id="inc-1", seq=1),
        session.RecordUid(outbox_id="\0", incarnation_id=LONG, seq=MIN),
        session.RecordUid(outbox_id="outbox-1", incarnation_id="inc-1", seq=MAX),
    )


refusals = st.builds(
    sync.ReportRefusalsRequest,
    holder=holders,
    counts=st.lists(
        st.builds(
            sync.RefusalCount,
            customer_id=customers,
            feature=features,
            reason=mostly(st.integers(4, 21), 0, 99, -1, 2**31 - 1),
            minute=instants,
            count=amounts,
        ),
        max_size=4,
    ),
    samples=st.lists(
        st.builds(
            sync.RefusalSample,
            customer_id=customers,
            feature=features,
            at=instants,
            decision=st.builds(
                answers.Decision,
                decision_id=mostly(named("refused", 50), *odd_texts),
                message=st.sampled_from(odd_texts),
            ),
        ),
        max_size=2,
    ),
)
METHODS: Final[dict[type[Message], str]] = {
    session.OpenSessionRequest: "OpenSession",
    session.CloseSessionRequest: "CloseSession",
    session.AcquireLeasesRequest: "AcquireLeases",
    sync.ReportBatchRequest: "ReportBatch",
    sync.ReportRefusalsRequest: "ReportRefusals",
}
requests = st.one_of(openings, closings, acquiring, acquiring, batches(), batches(), refusals)

ids = st.lists(customers, max_size=3)
follow_starts = st.builds(
    feed.Start,
    holder=holders,
    label=st.sampled_from(odd_texts),
    generation=mostly(st.sampled_from([0, 1]), -1, MAX, MIN),
    revision=mostly(st.integers(0, 8), -1, MAX, MIN),
    customer_ids=ids,
    subject_ids=ids,
    catalog_revisions=st.lists(mostly(st.integers(0, 3), -1, MAX, MIN), max_size=3),
    as_of=instants,
)
follow_requests = st.one_of(
    follow_starts.map(lambda made: feed.FollowRequest(start=made)),
    st.builds(feed.Subscribe, customer_ids=ids, subject_ids=ids).map(
        lambda made: feed.FollowRequest(subscribe=made)
    ),
    st.builds(feed.Unsubscribe, customer_ids=ids, subject_ids=ids).map(
        lambda made: feed.FollowRequest(unsubscribe=made)
    ),
    st.builds(feed.Ack, revision=mostly(st.integers(0, 8), -1, MAX, MIN)).map(
        lambda made: feed.FollowRequest(ack=made)
    ),
    st.builds(feed.Nack, revision=numbers, error=st.sampled_from(odd_texts)).map(
        lambda made: feed.FollowRequest(nack=made)
    ),
    st.builds(
        feed.Recalled,
        recall_id=mostly(named("recall", 3), *odd_texts),
        last_seq=numbers,
        lease_ids=st.lists(lease_ids, max_size=3),
    ).map(lambda made: feed.FollowRequest(recalled=made)),
    st.just(feed.FollowRequest()),
)


def to_real(request: Message, leases: list[str], cursors: dict[tuple[str, str], int]) -> None:
    """Puts in the leases that there are, for those that are only numbered, and the numbers that come next."""
    if isinstance(request, sync.ReportBatchRequest) and request.first_seq == 1:
        base = cursors.get((request.holder.outbox_id, request.holder.incarnation_id), 0)
        request.first_seq += base
        request.last_seq = min(MAX, request.last_seq + base)
        for record in request.records:
            record.seq = min(MAX, record.seq + base)
    _put_leases(request, leases)


def _put_leases(message: Message, leases: list[str]) -> None:
    for descriptor, value in message.ListFields():
        if descriptor.name == "lease_id" and value.startswith(LEASE) and leases:
            setattr(message, descriptor.name, leases[int(value.removeprefix(LEASE)) % len(leases)])
        elif descriptor.message_type is not None and not descriptor.message_type.GetOptions().map_entry:
            for one in value if descriptor.is_repeated else (value,):
                _put_leases(one, leases)
