"""What is sent, what the yardstick answers, and when an answer is right."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from purser.v1 import decision_pb2 as d
from purser.v1 import entitlement_service_pb2 as s
from purser.v1 import usage_pb2 as u
from tests.benchmarks.load import BodyMaker

SERVICE = "/purser.v1.EntitlementService/"
_BATCH_METHOD = SERVICE + "BatchCheckAccess"
BATCH = 50
FEATURE = "chat"
EVENT_NAME = "llm_inference"
MODEL = "text-gen-v3"
COST = "0.014232"
MEASURES = {"input_tokens": "412", "output_tokens": "1083"}

_KEY_PLACE = "k" * 24  # as long as every key is, so that serialized lengths stay true
_TOKENS_PLACE = "9" * 7


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
    spends: bool = False
    """It needs leases: not every refusal is the server's fault."""


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
        cost=u.Amount(unit="usd", value=COST),
        freshness=freshness,
    )


def check_request(customer_id: str, input_tokens: str = MEASURES["input_tokens"]) -> s.CheckAccessRequest:
    """A check of an event that a wallet pays for and a rate limits."""
    measures = {**MEASURES, "input_tokens": input_tokens}
    event = u.UsageEvent(event_name=EVENT_NAME, measures=measures, attributes={"model": MODEL})
    return s.CheckAccessRequest(customer_id=customer_id, feature=FEATURE, event=event)


def consume_request(
    customer_id: str, key: str, input_tokens: str = MEASURES["input_tokens"]
) -> s.ConsumeUsageRequest:
    """The same event, consumed."""
    event = u.UsageEvent(
        idempotency_key=key,
        customer_id=customer_id,
        event_name=EVENT_NAME,
        measures={**MEASURES, "input_tokens": input_tokens},
        attributes={"model": MODEL},
    )
    return s.ConsumeUsageRequest(event=event, feature=FEATURE)


def echo(name: str = "bare grpc.server") -> Scenario:
    """What the yardstick is asked: a check."""
    body = check_request("customer").SerializeToString()
    return Scenario(name, SERVICE + "CheckAccess", lambda: lambda _: body, _verify_check)


def check(customer_ids: Sequence[str]) -> Scenario:
    """A question per customer, asked again and again: what an app asks before it shows a button."""
    bodies = [check_request(customer_id).SerializeToString() for customer_id in customer_ids]
    return Scenario(
        "CheckAccess", SERVICE + "CheckAccess", lambda: lambda n: bodies[n % len(bodies)], _verify_check
    )


def new_checks(customer_ids: Sequence[str]) -> Scenario:
    """No question is like one before: nothing that was answered can be answered again."""

    def bodies() -> BodyMaker:
        splits = [
            _split(check_request(customer_id, _TOKENS_PLACE), _TOKENS_PLACE) for customer_id in customer_ids
        ]
        first = time.time_ns()

        def body(number: int) -> bytes:
            before, after = splits[number % len(splits)]
            return b"%b%07d%b" % (before, 1_000_000 + (first + number) % 9_000_000, after)

        return body

    return Scenario("CheckAccess, always new", SERVICE + "CheckAccess", bodies, _verify_new_check)


def batch(customer_ids: Sequence[str]) -> Scenario:
    """`BATCH` checks per call, of as many customers as there are."""
    asked = [check_request(customer_ids[n % len(customer_ids)]) for n in range(BATCH)]
    body = s.BatchCheckAccessRequest(requests=asked).SerializeToString()
    return Scenario(
        f"BatchCheckAccess × {BATCH}", _BATCH_METHOD, lambda: lambda _: body, _verify_batch, BATCH
    )


def new_batches(customer_ids: Sequence[str]) -> Scenario:
    """The same, and no question is like one before."""

    def bodies() -> BodyMaker:
        body = new_checks(customer_ids).bodies()

        def batch(number: int) -> bytes:
            items = [body(number * BATCH + item) for item in range(BATCH)]
            return b"".join(
                b"\x0a%c%b" % (len(item), item) for item in items
            )  # field 1, shorter than 128 bytes

        return batch

    return Scenario(
        f"BatchCheckAccess × {BATCH}, always new", _BATCH_METHOD, bodies, _verify_new_batch, BATCH
    )


def consume(customer_id: str, label: str) -> Scenario:
    """Each call has a key of its own, also across rounds and runs."""

    def bodies() -> BodyMaker:
        before, after = _split(consume_request(customer_id, _KEY_PLACE), _KEY_PLACE)
        started = time.time_ns()
        return lambda number: b"%b%016x-%07x%b" % (before, started, number, after)

    return Scenario(f"ConsumeUsage, {label}", SERVICE + "ConsumeUsage", bodies, _verify_consume, spends=True)


def new_consumes(customer_id: str, label: str) -> Scenario:
    """Each call measures something else, as calls of a language model do."""

    def bodies() -> BodyMaker:
        # Fractions of a token: the wallet must last for the whole run.
        request = consume_request(customer_id, _KEY_PLACE, f"412.{_TOKENS_PLACE}")
        before, rest = _split(request, _KEY_PLACE)
        between, after = rest.split(_TOKENS_PLACE.encode(), 1)
        started = time.time_ns()
        parts = b"%b%016x-%07x%b%07d%b"
        return lambda n: parts % (before, started, n, between, 1_000_000 + (started + n) % 9_000_000, after)

    method = SERVICE + "ConsumeUsage"
    return Scenario(f"ConsumeUsage, always new, {label}", method, bodies, _verify_new_consume, spends=True)


def _split(request: Message, place: str) -> tuple[bytes, bytes]:
    before, after = request.SerializeToString().split(place.encode(), 1)
    return before, after


def _verify_check(answer: bytes) -> None:
    _allowed(s.CheckAccessResponse.FromString(answer).decision)


def _verify_new_check(answer: bytes) -> None:
    _allowed(s.CheckAccessResponse.FromString(answer).decision, cost=None)


def _verify_new_batch(answer: bytes) -> None:
    _verify_batch(answer, cost=None)


def _verify_batch(answer: bytes, cost: str | None = COST) -> None:
    decisions = s.BatchCheckAccessResponse.FromString(answer).decisions
    if len(decisions) != BATCH:
        raise WrongAnswer(f"{len(decisions)} decisions for {BATCH} checks")
    for decision in decisions:
        _allowed(decision, cost)


def _verify_new_consume(answer: bytes) -> None:
    _verify_consume(answer, cost=None)


def _verify_consume(answer: bytes, cost: str | None = COST) -> None:
    response = s.ConsumeUsageResponse.FromString(answer)
    _allowed(response.decision, cost)
    if response.status != s.USAGE_STATUS_ACCEPTED:
        raise WrongAnswer(f"not recorded as new: {response.status}")


def _allowed(decision: d.Decision, cost: str | None = COST) -> None:
    whole = decision.allowed and len(decision.balances) >= 2 and decision.cost.unit == "usd"
    if not whole or (cost is not None and decision.cost.value != cost):
        raise WrongAnswer(f"not the whole decision that was asked for: {decision}")
