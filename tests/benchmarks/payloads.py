"""What is sent, what the yardstick answers, and when an answer is right."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from purser.v1 import decision_pb2 as d
from purser.v1 import entitlement_service_pb2 as s
from purser.v1 import usage_pb2 as u
from tests.benchmarks.load import BodyMaker

SERVICE = "/purser.v1.EntitlementService/"
BATCH = 50
FEATURE = "chat"
EVENT_NAME = "llm_inference"
MODEL = "text-gen-v3"
MEASURES = {"input_tokens": "412", "output_tokens": "1083"}

_KEY_PLACE = "k" * 24  # as long as every key is, so that serialized lengths stay true


class WrongAnswer(AssertionError):
    """The server answered, but not what was asked: its speed means nothing."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that is measured."""

    name: str
    method: str
    bodies: Callable[[], BodyMaker]  # made anew for each round: keys do not repeat
    verify: Callable[[bytes], None]  # raises WrongAnswer
    checks_per_call: int = 1


def full_decision() -> d.Decision:
    """An allowed Decision as a metered feature with a rate gets it: two balances, cost, freshness."""
    now = Timestamp(seconds=1_790_000_000, nanos=123_456_000)
    balances = (
        d.BalanceState(
            balance="rate:chat/requests/PT1M",
            kind=d.BALANCE_KIND_RATE,
            unit="requests",
            limit="60000000",
            used="17",
            remaining="59999983",
            overage="0",
            reserved="0",
        ),
        d.BalanceState(
            balance="wallet:usd",
            kind=d.BALANCE_KIND_WALLET,
            unit="usd",
            limit="900000",
            used="14.232",
            remaining="899985.768",
            overage="0",
            reserved="0",
            resets_at=now,
            next_expiry_at=now,
        ),
    )
    freshness = d.Freshness(revision=123_456, as_of=now, source=d.VIEW_SOURCE_LIVE)
    freshness.age.FromMilliseconds(412)
    return d.Decision(
        decision_id="01J9ZK3V5N8Q2R4T6W8Y0A1B2C",
        allowed=True,
        reason=d.REASON_OK,
        message="Allowed.",
        balances=balances,
        cost=u.Amount(unit="usd", value="0.014232"),
        freshness=freshness,
    )


def check_request(customer_id: str) -> s.CheckAccessRequest:
    """A check of an event that a wallet pays for and a rate limits."""
    event = u.UsageEvent(event_name=EVENT_NAME, measures=MEASURES, attributes={"model": MODEL})
    return s.CheckAccessRequest(customer_id=customer_id, feature=FEATURE, event=event)


def consume_request(customer_id: str, key: str) -> s.ConsumeUsageRequest:
    """The same event, consumed."""
    event = u.UsageEvent(
        idempotency_key=key,
        customer_id=customer_id,
        event_name=EVENT_NAME,
        measures=MEASURES,
        attributes={"model": MODEL},
    )
    return s.ConsumeUsageRequest(event=event, feature=FEATURE)


def echo(name: str = "bare grpc.server") -> Scenario:
    """What the yardstick is asked: a check."""
    body = check_request("customer").SerializeToString()
    return Scenario(name, SERVICE + "CheckAccess", lambda: lambda _: body, _verify_check)


def check(customer_id: str) -> Scenario:
    body = check_request(customer_id).SerializeToString()
    return Scenario("CheckAccess", SERVICE + "CheckAccess", lambda: lambda _: body, _verify_check)


def batch(customer_ids: list[str]) -> Scenario:
    """`BATCH` checks per call, of as many customers as there are."""
    asked = [check_request(customer_ids[n % len(customer_ids)]) for n in range(BATCH)]
    body = s.BatchCheckAccessRequest(requests=asked).SerializeToString()
    method = SERVICE + "BatchCheckAccess"
    return Scenario(f"BatchCheckAccess × {BATCH}", method, lambda: lambda _: body, _verify_batch, BATCH)


def consume(customer_id: str, label: str) -> Scenario:
    """Each call has a key of its own, also across rounds and runs."""

    def bodies() -> BodyMaker:
        before, after = (
            consume_request(customer_id, _KEY_PLACE).SerializeToString().split(_KEY_PLACE.encode(), 1)
        )
        started = time.time_ns()
        return lambda number: b"%b%016x-%07x%b" % (before, started, number, after)

    return Scenario(f"ConsumeUsage, {label}", SERVICE + "ConsumeUsage", bodies, _verify_consume)


def _verify_check(answer: bytes) -> None:
    _allowed(s.CheckAccessResponse.FromString(answer).decision)


def _verify_batch(answer: bytes) -> None:
    decisions = s.BatchCheckAccessResponse.FromString(answer).decisions
    if len(decisions) != BATCH:
        raise WrongAnswer(f"{len(decisions)} decisions for {BATCH} checks")
    for decision in decisions:
        _allowed(decision)


def _verify_consume(answer: bytes) -> None:
    response = s.ConsumeUsageResponse.FromString(answer)
    _allowed(response.decision)
    if response.status != s.USAGE_STATUS_ACCEPTED:
        raise WrongAnswer(f"not recorded as new: {response.status}")


def _allowed(decision: d.Decision) -> None:
    if not decision.allowed or len(decision.balances) < 2 or decision.cost.value != "0.014232":
        raise WrongAnswer(f"not the whole decision that was asked for: {decision}")
