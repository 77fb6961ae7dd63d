"""The short look at a usual request sees what the long one does."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from purser.v1 import entitlement_service_pb2 as api
from purser.v1 import usage_pb2 as usage
from sidecar.deciding.errors import Malformed
from sidecar.rpc import validate

texts = st.sampled_from(["", "a", "chat", "x\0y", "ä" * 200, "k" * 60])
numbers = st.sampled_from(["1", "0.25", "", "-1", "1e3", "9" * 60, "9" * 61, "0." + "1" * 60, "1.", "\u0661"])
events = st.builds(
    usage.UsageEvent,
    idempotency_key=texts,
    customer_id=texts,
    subject_id=texts,
    event_name=texts,
    measures=st.dictionaries(texts, numbers, max_size=3),
    attributes=st.dictionaries(texts, texts, max_size=3),
    correlation_id=texts,
    holder_id=st.sampled_from(["", "", "ann"]),
    gauge_change=st.sampled_from([0, 0, 1, 3]),
)


@given(
    st.builds(
        api.CheckAccessRequest,
        customer_id=texts,
        subject_id=texts,
        feature=texts,
        event=events,
        min_revision=st.sampled_from([0, 1, -1]),
    )
)
def test_a_check_alone_and_in_a_batch_are_judged_alike(request: api.CheckAccessRequest) -> None:
    """A batch looks at every text, a single check takes the short way where it may: both find the same."""
    batch = api.BatchCheckAccessRequest(requests=[request])
    together = found(lambda: validate.batch(batch))
    assert found(lambda: validate.check_access(request)) == together


@given(
    st.builds(api.ConsumeUsageRequest, feature=texts, event=events, min_revision=st.sampled_from([0, 1, -1]))
)
def test_what_pads_a_consume_hides_nothing(request: api.ConsumeUsageRequest) -> None:
    """The same event is judged alike whether the request is short or too long for the short way."""
    longer = api.ConsumeUsageRequest()
    longer.CopyFrom(request)
    longer.event.attributes["padding"] = "p" * (validate.ID_MAX_BYTES + 1)
    assert found(lambda: validate.consume(request)) == found(lambda: validate.consume(longer))


def found(judge: Callable[[], None]) -> list[tuple[str, str]]:
    """What is wrong: fields and descriptions, sorted, because maps keep no order."""
    try:
        judge()
    except Malformed as error:
        return sorted(
            (item.field.removeprefix("requests[0]."), item.description) for item in error.violations
        )
    return []
