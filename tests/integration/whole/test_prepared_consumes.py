"""Consumes whose content was seen before take a shorter way: it says and books the same as the whole way does."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any

import grpc
import pytest

from purser.v1 import decision_pb2 as answers
from purser.v1 import entitlement_service_pb2 as api
from purser.v1 import usage_pb2 as usage
from purser.v1.entitlement_service_pb2_grpc import EntitlementServiceStub
from tests.e2e.fleet import eventually
from tests.integration.whole.installation import Aboard, Installation

CATALOG = """
purser: catalog/v1
units:
  credit: {name: credit, kind: credit, scale: 3}
meters:
  calls: {event: call, aggregate: count}
  tokens: {event: chat, aggregate: sum, of: [input, output]}
rate_cards:
  chat:
    event: chat
    unit: credit
    by: model
    unknown: deny
    prices:
      small: [{dimension: input, per: 10, price: "0.123"}, {dimension: output, per: 10, price: "0.4"}]
      large: [{dimension: input, per: 10, price: "1.1"}, {dimension: output, per: 10, price: "3"}]
features:
  api: {type: metered, meter: calls}
  chat: {type: metered, event: chat, rate_card: chat, requires: [{attribute: model, in: models}]}
  models: {type: config, value: set}
plans:
  mixed:
    entitlements:
      api: {limit: 40, every: P1M, overage: {allow_up_to: 5}, rate: [{limit: 6000, per: PT1M}]}
      chat: {spends: credit}
      models: [small, large]
    grants: [{unit: credit, amount: "50"}]
  hybrid:
    entitlements:
      chat: {included: {meter: tokens, amount: 900, every: P1M}, overage: {allow: {charge: chat}}}
      models: [small, large]
"""

CONTENTS: list[dict[str, Any]] = [
    {"event_name": "call"},
    {"event_name": "chat", "measures": {"input": "12", "output": "7"}, "attributes": {"model": "small"}},
    {"event_name": "chat", "measures": {"output": "3"}, "attributes": {"model": "large"}},
    {"event_name": "chat", "measures": {"input": "1"}, "attributes": {"model": "unheard of"}},
]


@dataclass
class Twins:
    """Two customers alike. What one asks plainly the other asks with `min_revision`: that goes the whole way."""

    aboard: Aboard
    stub: EntitlementServiceStub
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def consume(
        self, customer_id: str, *, key: str, plainly: bool = True, **content: Any
    ) -> api.ConsumeUsageResponse:
        """One consume, as bytes of protobuf's own order."""
        event = usage.UsageEvent(idempotency_key=key, customer_id=customer_id, **content)
        request = api.ConsumeUsageRequest(event=event, min_revision=None if plainly else 1)
        return self.stub.ConsumeUsage(request, timeout=10)

    @property
    def short(self) -> int:
        """How many consumes went the short way."""
        return self.aboard.edge.consumes.answered

    def warm(self, customer_id: str, content: dict[str, Any]) -> int:
        """Consumes until the short way is taken: the view is LIVE, and a lease covers it. How often it was allowed."""
        for number in range(1, 40):
            before = self.short
            assert self.consume(customer_id, key=f"warm{number}", **content).decision.allowed
            if self.short > before:
                return number
        raise AssertionError("the short way was never taken")

    def both(self, plan: str, **content: Any) -> answers.Decision:
        """Asks for both, and holds the answers against each other."""
        key = f"k{next(self.numbers)}"
        short = self.consume(f"{plan}-plain", key=key, **content)
        whole = self.consume(f"{plan}-whole", key=key, plainly=False, **content)
        assert short.status == whole.status
        assert bare(short.decision) == bare(whole.decision)
        return short.decision


def bare(decision: answers.Decision) -> answers.Decision:
    """Without what no two answers share, and without amounts: hints count what was used at different moments."""
    copy = answers.Decision()
    copy.CopyFrom(decision)
    copy.ClearField("decision_id")
    copy.ClearField("freshness")
    for balance in copy.balances:
        for name in ("used", "remaining", "overage", "next_expiry_at", "resets_at"):
            balance.ClearField(name)
    del copy.warnings[:]
    if copy.reason == answers.REASON_OK_OVERAGE:
        # Where overage is allowed, what passes uncovered depends on what was leased at that moment.
        copy.reason, copy.message = answers.REASON_OK, "allowed"
    return copy


@pytest.fixture
def twins(installation: Installation) -> Twins:
    """Four customers on two plans, and a connected sidecar."""
    installation.office.publish(CATALOG)
    for plan in ("mixed", "hybrid"):
        for name in ("plain", "whole"):
            installation.office.customer(f"{plan}-{name}", plan)
    aboard = installation.sidecar()
    return Twins(aboard, EntitlementServiceStub(grpc.insecure_channel(aboard.sidecar.grpc_address)))


@pytest.mark.parametrize("plan", ["mixed", "hybrid"])
def test_the_short_way_says_and_books_the_same(twins: Twins, installation: Installation, plan: str) -> None:
    """To the end of every balance and beyond: answer by answer, and event by event in the books."""
    random = Random(7)
    reasons = set()
    for _ in range(160):
        decision = twins.both(plan, **random.choice(CONTENTS if plan == "mixed" else CONTENTS[1:]))
        reasons.add(decision.reason)
    assert twins.short > 5, "the short way was taken"
    assert {answers.REASON_OK, answers.REASON_VALUE_NOT_ALLOWED} <= reasons
    assert reasons & {answers.REASON_OK_OVERAGE, answers.REASON_INSUFFICIENT_CREDITS}
    twins.aboard.has_uploaded()
    books = [sorted_events(installation, f"{plan}-{name}") for name in ("plain", "whole")]
    assert books[0] == books[1]
    names = ["wallet:credit", "allowance:api"] if plan == "mixed" else ["allowance:chat"]
    for name in names:
        assert (
            installation.office.balance(f"{plan}-plain", name)["overage"]
            == (installation.office.balance(f"{plan}-whole", name)["overage"])
        )


def sorted_events(installation: Installation, customer_id: str) -> list[tuple[Any, ...]]:
    """What the books say of each event, but for whose and when."""
    return sorted(
        (event["idempotency_key"], event["decided"], sorted(event["measures"].items()), str(event["cost"]))
        for event in installation.office.events(customer_id)
    )


def test_keys_count_once_whichever_way_they_came(twins: Twins, installation: Installation) -> None:
    """The same event again is DUPLICATE with its first answer; other content under its key is ALREADY_EXISTS."""
    warm = twins.warm("mixed-plain", CONTENTS[1])
    first = [twins.consume("mixed-plain", key=f"a{n}", **CONTENTS[1]) for n in range(4)]
    assert twins.short > 1
    for number, answer in enumerate(first):
        again = twins.consume("mixed-plain", key=f"a{number}", **CONTENTS[1])
        assert again.status == api.USAGE_STATUS_DUPLICATE
        assert again.decision == answer.decision
        whole = twins.consume("mixed-plain", key=f"a{number}", plainly=False, **CONTENTS[1])
        assert whole.decision == answer.decision, "both ways hash the same"
    with pytest.raises(grpc.RpcError) as conflict:
        twins.consume("mixed-plain", key="a3", **CONTENTS[0])
    assert conflict.value.code() is grpc.StatusCode.ALREADY_EXISTS
    twins.aboard.has_uploaded()
    assert installation.office.balance("mixed-plain", "wallet:credit")["spent"] == (warm + 4) * Decimal(
        "0.428"
    )


@pytest.mark.parametrize("in_another_event", [False, True])
@pytest.mark.parametrize("last", ["z9", "longer than the first", ""])
def test_of_two_keys_the_last_one_counts(
    twins: Twins, installation: Installation, last: str, in_another_event: bool
) -> None:
    """However a request is encoded, its key is what protobuf reads: no event is doubled, no record spoiled."""
    twins.warm("mixed-plain", CONTENTS[1])
    twins.aboard.has_uploaded()
    booked = len(installation.office.events("mixed-plain"))
    content = usage.UsageEvent(customer_id="mixed-plain", **CONTENTS[1]).SerializeToString()
    last_key = b"\x0a%c%b" % (len(last), last.encode())

    def request(first: str) -> bytes:
        event = b"\x0a%c%b" % (len(first), first.encode()) + content
        if in_another_event:
            return b"\x0a%c%b\x0a%c%b" % (len(event), event, len(last_key), last_key)
        return b"\x0a%c%b" % (len(event + last_key), event + last_key)

    channel = grpc.insecure_channel(twins.aboard.sidecar.grpc_address)
    send: Callable[..., bytes] = channel.unary_unary("/purser.v1.EntitlementService/ConsumeUsage")
    if not last:
        with pytest.raises(grpc.RpcError) as refused:
            send(request("k1"), timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        return
    keys = ("k1", "k2", "k3", "k4", last if len(last) == 2 else "k5", "k6")
    given = [api.ConsumeUsageResponse.FromString(send(request(key), timeout=10)) for key in keys]
    statuses = [answer.status for answer in given]
    accepted = statuses.count(api.USAGE_STATUS_ACCEPTED)
    assert accepted == 1
    assert statuses.count(api.USAGE_STATUS_DUPLICATE) == 5
    twins.aboard.has_uploaded()
    assert len(installation.office.events("mixed-plain")) == booked + accepted


def test_what_was_prepared_ends_with_what_it_rests_on(twins: Twins, installation: Installation) -> None:
    """A suspension, a new price, and a control plane that is away are in the next answer."""
    office = installation.office
    twins.warm("mixed-plain", CONTENTS[1])
    assert twins.consume("mixed-plain", key="a", **CONTENTS[1]).decision.cost.value == "0.428"
    dearer = CATALOG.replace('price: "0.4"', 'price: "0.5"')
    headers = {"Content-Type": "application/yaml"}
    answer = office.rest.post("/catalog/revisions?move=all", content=dearer, headers=headers)
    revision = answer.json()["revision"]
    eventually(lambda: twins.aboard.sidecar._view.revision >= revision, seconds=5, what="the price has come")
    assert twins.consume("mixed-plain", key="b", **CONTENTS[1]).decision.cost.value == "0.498"
    revision = office.post("/customers/mixed-plain/suspend")["revision"]
    eventually(lambda: twins.aboard.sidecar._view.revision >= revision, seconds=5, what="it is suspended")
    refused = twins.consume("mixed-plain", key="c", **CONTENTS[1])
    assert refused.decision.reason == answers.REASON_CUSTOMER_SUSPENDED
