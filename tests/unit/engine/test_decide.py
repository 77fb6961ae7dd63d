"""Billing and deciding, by example."""

from datetime import timedelta
from decimal import Decimal

import pytest

from sidecar.engine.bill import NoMeter, bill
from sidecar.engine.decide import decide
from sidecar.engine.decision import Amount, Freshness, Standing, ViewSource, build
from sidecar.engine.evaluate import Bill, Fund
from sidecar.engine.values import AmountOutOfRange, BalanceRef, Event, Finding, GaugeChange, Reason
from tests.unit.engine.worlds import NOW, entitled, example, inference, subscription

PLENTY = Fund(10**15)
WALLET = BalanceRef("acme", "", "wallet:usd")


def plenty(found: Bill) -> dict[BalanceRef, Fund]:
    """Enough of everything."""
    return dict.fromkeys(found.refs, PLENTY)


def test_an_event_is_charged_to_every_feature_it_matches() -> None:
    """An inference on pro is paid from the wallet, and counts as a call and in the calls' rate."""
    found = bill(entitled(subscription("pro")), event=inference(), feature="chat")
    drawn = {d.ref.balance: d.within for d in decide(found, plenty(found)).draws}
    assert drawn == {"allowance:api_calls": 1, "rate:api_calls/requests/PT1M": 1, "wallet:usd": 14_232_000}


def test_all_shortfalls_come_at_once() -> None:
    """One round trip can lease everything that is missing; the reason is the first in order."""
    outcome = decide(bill(entitled(subscription("pro")), event=inference()), {WALLET: Fund(4_232_000)})
    missing = {s.ref.balance: (s.missing, s.needed) for s in outcome.shortfalls}
    assert missing["wallet:usd"] == (10_000_000, 14_232_000)
    assert missing.keys() == {"allowance:api_calls", "rate:api_calls/requests/PT1M", "wallet:usd"}
    assert outcome.reason is Reason.LIMIT_REACHED
    assert {f.reason for f in outcome.findings} == {
        Reason.LIMIT_REACHED,
        Reason.RATE_LIMITED,
        Reason.INSUFFICIENT_CREDITS,
    }


def test_a_refused_bill_looks_at_no_balance() -> None:
    """Where the event itself is refused there is nothing to lease, but the cost is told."""
    event = inference()._replace(measures={**inference().measures, "context_window": Decimal(131073)})
    outcome = decide(bill(entitled(subscription("pro")), event=event), {})
    assert (outcome.reason, outcome.shortfalls, outcome.draws) == (Reason.VALUE_NOT_ALLOWED, (), ())
    assert outcome.unrated[0].rate_card == "llm"


def test_pay_as_you_go_bills_and_touches_no_balance() -> None:
    """Billed in arrears, the whole cost."""
    outcome = decide(bill(entitled(subscription("payg")), event=inference()), {})
    assert (outcome.reason, outcome.draws) == (Reason.OK, ())
    assert outcome.costs[0].billed == outcome.costs[0].amount == 14_232_000


def test_an_allowance_before_a_wallet() -> None:
    """What the allowance covers comes off what the wallet pays, by share of the cost."""
    found = bill(entitled(subscription("pro"), subscription("free", "s2")), event=inference())
    funds = {**plenty(found), BalanceRef("acme", "", "allowance:chat"): Fund(1000 * 10**6)}
    outcome = decide(found, funds)
    drawn = {d.ref.balance: (d.within, d.uncovered) for d in outcome.draws}
    assert drawn["allowance:chat"] == (1_000_000_000, 495_000_000)
    assert drawn["wallet:usd"] == (4_712_268, 0)
    assert [(s.ref.balance, s.refuses) for s in outcome.shortfalls] == [("allowance:chat", False)]


def test_allowances_are_used_one_after_the_other() -> None:
    """The one that starts anew sooner first; both together must cover the event."""
    catalog = example(
        month={"entitlements": {"api_calls": {"limit": 10, "every": "P1M"}}},
        day={"entitlements": {"api_calls": {"limit": 2, "every": "P1D"}}},
    )
    both = entitled(subscription("month"), subscription("day", "s2"), catalog=catalog)
    found = bill(both, feature="api_calls", quantity=Decimal(5))
    day, month = (BalanceRef("acme", "", f"allowance:api_calls{every}") for every in ("/P1D", ""))
    outcome = decide(found, {day: Fund(2), month: Fund(10)})
    assert [(d.ref, d.within) for d in outcome.draws] == [(day, 2), (month, 3)]
    short = decide(found, {day: Fund(2), month: Fund(2)})
    assert (short.allowed, [(s.ref, s.missing) for s in short.shortfalls]) == (False, [(day, 3), (month, 1)])


def test_two_features_share_one_wallet() -> None:
    """What one draws the other does not find; a narrow scope burns first."""
    catalog = example(two={"entitlements": {"chat": {"spends": "usd"}, "images": {"spends": "usd"}}})
    found = bill(entitled(subscription("two"), catalog=catalog), event=inference())
    cost = 14_232_000
    assert decide(found, {WALLET: Fund(2 * cost)}).allowed
    assert not decide(found, {WALLET: Fund(2 * cost - 1)}).allowed
    assert decide(found, {WALLET: Fund(cost, scoped={"chat": 2 * cost})}).allowed
    assert not decide(found, {WALLET: Fund(cost - 1, scoped={"chat": 9 * cost})}).allowed


def test_filters_leave_an_event_uncounted() -> None:
    """Only what a meter's filter lets through touches its balance."""
    catalog = example(slow={"entitlements": {"batch": {"limit": 3, "every": "P1M"}}})
    slow = entitled(subscription("slow"), catalog=catalog)
    assert [c.quantity for c in bill(slow, event=inference(tier="slow")).charges] == [1]
    assert bill(slow, event=inference(tier="fast"), feature="batch").refused is Reason.FEATURE_TYPE_MISMATCH


def test_unique_values_and_maxima() -> None:
    """A unique charge names its value; a maximum is the control plane's to decide."""
    terms = {"people": {"limit": 3, "every": "P1M"}, "storage": {"limit": 100, "every": "P1M"}}
    both = entitled(subscription("x"), catalog=example(x={"entitlements": terms}))
    login = Event(event_name="login", occurred_at=NOW, attributes={"user": "ann"})
    charge = bill(both, event=login).charges[0]
    assert (charge.quantity, charge.value, charge.spec.decided_remotely) == (1, "ann", False)
    stored = Event(event_name="storage", occurred_at=NOW, measures={"bytes": Decimal(101)})
    found = bill(both, event=stored)
    assert found.charges[0].spec.decided_remotely
    refused = decide(found, {})
    assert refused.shortfalls[0].needed == 101_000_000
    assert decide(found, {found.refs[0]: Fund(101_000_000)}).allowed


def seat(change: GaugeChange, **measures: int) -> Event:
    """A change of ann's seat."""
    return Event(
        event_name="",
        occurred_at=NOW,
        holder_id="ann",
        gauge_change=change,
        measures={name: Decimal(value) for name, value in measures.items()},
    )


def test_gauges() -> None:
    """A gauge event touches that gauge alone and carries its holder; removing needs nothing."""
    team = entitled(subscription("team"))
    added = bill(team, event=seat(GaugeChange.ADD), feature="seats")
    assert [(c.ref.balance, c.quantity, c.value) for c in added.charges] == [("gauge:seats", 1, "ann")]
    assert decide(added, {}).shortfalls[0].needed == 1
    assert decide(added, {added.refs[0]: Fund(1)}).allowed
    assert bill(team, event=seat(GaugeChange.SET, quantity=3), feature="seats").charges[0].quantity == 3
    assert decide(bill(team, event=seat(GaugeChange.REMOVE), feature="seats"), {}).allowed
    free = entitled(subscription("pro"))
    assert bill(free, event=seat(GaugeChange.ADD), feature="sso").refused is Reason.FEATURE_TYPE_MISMATCH
    assert bill(free, event=inference(), feature="seats").refused is Reason.FEATURE_TYPE_MISMATCH


def test_checks_by_quantity() -> None:
    """A quantity counts in the feature's own meter; without one the question is whether anything is left."""
    free = entitled(subscription("free"))
    with pytest.raises(NoMeter):
        bill(free, feature="chat", quantity=Decimal(2))
    found = bill(free, feature="chat")
    assert found.probe
    assert decide(found, dict.fromkeys(found.refs, Fund(1))).allowed
    assert decide(found, dict.fromkeys(found.refs[:2], Fund(1))).reason is Reason.RATE_LIMITED
    pro = bill(entitled(subscription("pro")), feature="chat")
    assert decide(pro, {WALLET: Fund(1)}).allowed
    assert decide(pro, {}).reason is Reason.INSUFFICIENT_CREDITS


def test_facts_pass_with_what_is_uncovered() -> None:
    """A fact of a suspended customer is charged all the same."""
    barred = entitled(subscription("pro"), suspended=True)
    found = bill(barred, event=inference())
    assert decide(found, {}).reason is Reason.CUSTOMER_SUSPENDED
    outcome = decide(found, {WALLET: Fund(5)}, fact=True)
    drawn = {d.ref.balance: (d.within, d.uncovered) for d in outcome.draws}
    assert drawn["wallet:usd"] == (5, 14_231_995)


def test_what_features_cost_together_fits_63_bits() -> None:
    """Two features that share a wallet, each in bounds: their sum is out of range before anything is decided."""
    catalog = example(two={"entitlements": {"chat": {"spends": "usd"}, "images": {"spends": "usd"}}})
    event = inference(output_tokens=6 * 10**14, context_window=8192)
    with pytest.raises(AmountOutOfRange):
        bill(entitled(subscription("two"), catalog=catalog), event=event)
    assert bill(entitled(subscription("pro"), catalog=catalog), event=event).refused is Reason.OK


def test_a_decision_says_what_a_caller_needs() -> None:
    """Balances, cost, shortfall, options and words; the explanation only on request."""
    pro = entitled(subscription("pro"))
    found = bill(pro, event=inference(), feature="chat", explain=True)
    outcome = decide(found, {**plenty(found), WALLET: Fund(0)})
    fresh = Freshness(12, NOW, timedelta(0), ViewSource.LIVE)
    standing = Standing(limit=20 * 10**9, used=20 * 10**9, remaining=0)
    answer = build(
        bill=found,
        outcome=outcome,
        entitlements=pro,
        standings={WALLET: standing},
        freshness=fresh,
        decision_id="d",
    )
    assert (answer.allowed, answer.reason) == (False, Reason.INSUFFICIENT_CREDITS)
    assert answer.cost == Amount("usd", 14_232_000, 9)
    assert answer.shortfall == Amount("usd", 14_232_000, 9)
    assert answer.upgrade_options == ("pack_50",)
    assert "wallet:usd" in answer.message
    assert [step.step for step in answer.explanation] == [
        *(
            "subscription",
            "entitlement",
            "requires",
            "requires",
            "rating",
            "balance",
            "balance",
            "balance",
            "reason",
        ),
    ]


def test_trouble_overrules_balances_only() -> None:
    """A fallback allows what balances refused, not what the customer has no right to; a stale view refuses."""
    pro = entitled(subscription("pro"))
    fresh = Freshness(12, NOW, timedelta(0), ViewSource.FALLBACK)
    fallback = Finding("trouble", "chat", "cut off, and the policy allows", Reason.OK_FALLBACK)
    stale = Finding("trouble", "chat", "too old", Reason.VIEW_TOO_OLD)

    def reason(found: Bill, funds: dict[BalanceRef, Fund], trouble: Finding) -> Reason:
        outcome = decide(found, funds)
        return build(
            bill=found,
            outcome=outcome,
            entitlements=pro,
            standings={},
            freshness=fresh,
            decision_id="d",
            trouble=trouble,
        ).reason

    paid = bill(pro, event=inference())
    assert reason(paid, {}, fallback) is Reason.OK_FALLBACK
    assert reason(bill(pro, feature="nosuch"), {}, fallback) is Reason.FEATURE_NOT_FOUND
    assert reason(paid, plenty(paid), stale) is Reason.VIEW_TOO_OLD
    assert reason(paid, {}, stale) is Reason.LIMIT_REACHED


def test_an_event_that_measures_nothing_is_warned_of() -> None:
    """A measure that is misspelt costs nothing: the answer says so. One that is there, if only as 0, is no slip."""
    named = "NOTHING_MEASURED chat"
    pro = entitled(subscription("pro"))
    slip = inference()._replace(measures={"output_token": Decimal(1083)})
    assert bill(pro, event=slip, feature="chat").warnings == (named,)
    assert bill(pro, event=slip._replace(measures={}), feature="chat").warnings == (named,)
    by_call = {"spends": "usd", "rate": [{"meter": "requests", "limit": 5, "per": "PT1M"}]}
    counted = entitled(subscription("counted"), catalog=example(counted={"entitlements": {"chat": by_call}}))
    assert bill(counted, event=slip, feature="chat").warnings == (named,)
    for measures in (inference().measures, {"output_tokens": Decimal(0)}, {"output_tokens": Decimal(5)}):
        event = inference()._replace(measures={**measures, "latency_ms": Decimal(7)})
        assert bill(pro, event=event, feature="chat").warnings == ()
