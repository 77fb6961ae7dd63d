"""What is written by hand is what the protobuf library says."""

from datetime import UTC, timedelta

from hypothesis import given
from hypothesis import strategies as st

from purser.v1 import decision_pb2 as answers
from sidecar.engine.decision import Amount, BalanceState, Decision, Freshness, ViewSource
from sidecar.engine.values import BalanceKind, Finding, Reason
from sidecar.rpc import wire
from sidecar.rpc.encoding import decision_bytes

texts = st.text(st.characters(codec="utf-8"), max_size=300)
instants = st.datetimes(timezones=st.just(UTC))
spans = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36_500))
scales = st.integers(0, 18)
amounts = st.integers(-(2**63), 2**63 - 1)
values = st.one_of(
    st.none(), st.booleans(), texts, st.decimals(allow_nan=False, allow_infinity=False), st.frozensets(texts)
)
balances = st.builds(
    BalanceState,
    texts,
    st.sampled_from(BalanceKind),
    texts,
    scales,
    st.none() | amounts,
    amounts,
    st.none() | amounts,
    amounts,
    amounts,
    st.none() | instants,
    st.none() | instants,
)
several_texts = st.lists(texts, max_size=3).map(tuple)
decisions = st.builds(
    Decision,
    decision_id=texts,
    allowed=st.booleans(),
    reason=st.sampled_from(Reason),
    message=texts,
    freshness=st.builds(
        Freshness,
        st.integers(0, 2**63 - 1),
        st.none() | instants,
        st.none() | spans,
        st.sampled_from(ViewSource),
    ),
    value=values,
    balances=st.lists(balances, max_size=4).map(tuple),
    cost=st.none() | st.builds(Amount, texts, amounts, scales),
    shortfall=st.none() | st.builds(Amount, texts, amounts, scales),
    retry_after=st.none() | spans,
    upgrade_options=several_texts,
    warnings=several_texts,
    explanation=st.lists(
        st.builds(Finding, texts, texts, texts, st.sampled_from(Reason), texts), max_size=3
    ).map(tuple),
)


@given(decisions)
def test_a_decision_written_by_hand_is_the_librarys(decision: Decision) -> None:
    """Whatever a decision holds, its bytes are read as the message that the library would have written."""
    assert answers.Decision.FromString(decision_bytes(decision)) == in_the_librarys_words(decision)


@given(decisions)
def test_nothing_is_written_twice(decision: Decision) -> None:
    """The bytes are as many as the library's: no field stands there that a later one overwrites."""
    assert len(decision_bytes(decision)) == in_the_librarys_words(decision).ByteSize()


def in_the_librarys_words(decision: Decision) -> answers.Decision:
    """The same decision, field by field."""
    message = answers.Decision(
        decision_id=decision.decision_id,
        allowed=decision.allowed,
        reason=int(decision.reason),  # type: ignore[arg-type]
        message=decision.message,
        balances=[wire.balance_message(state) for state in decision.balances],
        upgrade_options=decision.upgrade_options,
        warnings=decision.warnings,
        freshness=wire.freshness_message(decision.freshness),
    )
    for finding in decision.explanation:
        message.explanation.add(
            step=finding.step,
            about=finding.about,
            finding=finding.finding,
            reason=int(finding.reason),
            source=finding.source,
        )
    if decision.value is not None:
        message.value.CopyFrom(wire.value_message(decision.value))
    if decision.cost is not None:
        message.cost.CopyFrom(wire.amount_message(decision.cost))
    if decision.shortfall is not None:
        message.shortfall.CopyFrom(wire.amount_message(decision.shortfall))
    if decision.retry_after is not None:
        message.retry_after.CopyFrom(wire.duration(decision.retry_after))
    return message
