"""Resolving: what several sources come to, by example."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from sidecar.engine.customer import PastDuePolicy, SubscriptionState
from sidecar.engine.periods import Span
from sidecar.engine.subscribed import UnknownPlan
from sidecar.engine.values import BalanceKind, Reason
from tests.unit.engine.worlds import BEGAN, NOW, entitled, example, subscription


def test_pro_has_what_the_contract_says() -> None:
    """Features, balances with their names, scales, periods and sources."""
    pro = entitled(subscription("pro", add_ons=("pack_50",)))
    calls = pro.balances["allowance:api_calls"]
    assert (calls.limit, calls.cap, calls.scale, calls.unit) == (10_000, 500, 0, "requests")
    assert calls.sources == ("plan pro@12",)
    assert calls.period is not None
    assert calls.period.window(NOW).start == datetime(2026, 2, 28, 9, tzinfo=UTC)
    assert calls.period.window(NOW).end == datetime(2026, 3, 31, 9, tzinfo=UTC)
    rate = pro.balances["rate:api_calls/requests/PT1M"]
    assert (rate.limit, rate.burst, rate.micro_per_second) == (600, 600, 10_000_000)
    assert pro.balances["gauge:seats"].limit == 5
    assert pro.balances["wallet:usd"].kind is BalanceKind.WALLET
    assert pro.features["max_context"].value == Decimal(131072)
    assert pro.features["models"].value == frozenset({"text-gen-v3"})
    assert [grant.key for grant in pro.grants] == ["s1/plan/pro/0", "s1/add_on/pack_50#1/0"]
    monthly, once = pro.grants
    assert (monthly.amount, monthly.rollover_max, monthly.priority) == (20 * 10**9, 5 * 10**9, 10)
    assert (once.period, str(once.expires_after), once.cost_basis) == (None, "P1Y", Decimal(1))


def test_calendar_periods_begin_on_the_first() -> None:
    """`anchor: calendar` does not follow the subscription."""
    period = entitled(subscription("free")).balances["allowance:chat"].period
    assert period is not None
    assert period.window(NOW).start == datetime(2026, 3, 1, tzinfo=UTC)


def test_sources_add_up() -> None:
    """Allowances of one meter and period add, others stand apart; numbers and rates take the largest, sets unite."""
    catalog = example(
        more={
            "entitlements": {
                "api_calls": {"limit": 100, "every": "P1M", "rate": [{"limit": 900, "per": "PT1M"}]},
                "max_context": 1,
                "models": ["other"],
                "seats": 2,
            }
        },
        daily={"entitlements": {"api_calls": {"limit": 7, "every": "P1D"}}},
    )
    both = entitled(
        subscription("pro"), subscription("more", "s2"), subscription("daily", "s3"), catalog=catalog
    )
    assert both.balances["allowance:api_calls"].limit == 10_100
    assert both.balances["allowance:api_calls"].sources == ("plan pro@12", "plan more@12")
    assert both.balances["allowance:api_calls/P1D"].limit == 7
    assert both.balances["rate:api_calls/requests/PT1M"].limit == 900
    assert both.balances["gauge:seats"].limit == 7
    assert both.features["max_context"].value == Decimal(131072)
    assert both.features["models"].value == frozenset({"text-gen-v3", "other"})
    assert both.features["models"].sources == ("plan pro@12", "plan more@12")


def test_an_allowance_beside_a_wallet_is_used_first() -> None:
    """What a plan pays from a wallet, an allowance from elsewhere covers first, and never blocks."""
    chat = entitled(subscription("pro"), subscription("free", "s2")).features["chat"]
    assert [spec.overage.value for spec in chat.allowances] == ["allow"]
    assert chat.wallet is not None


def test_budgets_and_discounts_of_a_custom_plan() -> None:
    """A plan with a base has its own budgets and discounts beside what it takes over."""
    acme = entitled(subscription("acme"))
    budget = acme.budgets[0]
    assert budget.ref("acme", "ann", "") is not None
    assert budget.ref("acme", "", "") is None
    chat = acme.features["chat"]
    assert chat.pricing is not None
    assert chat.pricing.discount_percent == Decimal(15)


def at_days(days: int) -> datetime:
    """So many days from now."""
    return NOW + timedelta(days=days)


def test_valid_until_is_the_next_change_by_time() -> None:
    """The nearest of beginnings, ends, trials' ends and graces."""
    ends = subscription("pro", ends_at=at_days(9))
    trial = subscription("free", "s2", state=SubscriptionState.TRIALING, trial_ends_at=at_days(5))
    soon = subscription("team", "s3", starts_at=at_days(7))
    assert entitled(ends, trial, soon).valid_until == at_days(5)
    assert entitled(ends, soon).valid_until == at_days(7)
    assert entitled(ends).valid_until == at_days(9)
    assert entitled(subscription("pro")).valid_until is None
    grace = PastDuePolicy(allow=True, span=Span.parse("P7D"))
    late = subscription(
        "pro", state=SubscriptionState.PAST_DUE, past_due_since=at_days(-3), on_past_due=grace
    )
    assert entitled(late).valid_until == at_days(4)
    assert entitled(late).warnings == ("PAYMENT_PAST_DUE",)


def test_one_good_subscription_is_enough() -> None:
    """What is not in good order does not count beside what is; where nothing is, facts still find their balances."""
    paused = subscription("team", "s2", state=SubscriptionState.PAUSED)
    assert entitled(subscription("pro"), paused).plans == ("pro",)
    alone = entitled(paused)
    assert alone.standing is Reason.NO_ACTIVE_SUBSCRIPTION
    assert "gauge:seats" in alone.balances
    ended = replace(subscription("pro"), ends_at=NOW)
    assert entitled(ended).features == {}
    assert entitled(replace(ended, ends_at=at_days(1))).standing is Reason.OK
    assert entitled(subscription("pro", starts_at=at_days(1))).standing is Reason.NO_ACTIVE_SUBSCRIPTION


def test_what_is_not_at_hand_is_told() -> None:
    """A pinned catalog, plan or add-on that is missing is an error of its own."""
    for wrong in (
        subscription("nosuch"),
        subscription("pro", catalog_revision=11),
        subscription("pro", add_ons=("nosuch",)),
    ):
        with pytest.raises(UnknownPlan):
            entitled(wrong)


def test_an_add_on_bought_twice_grants_twice() -> None:
    """Each purchase has a key of its own."""
    keys = [grant.key for grant in entitled(subscription("free", add_ons=("pack_50", "pack_50"))).grants]
    assert keys == ["s1/add_on/pack_50#1/0", "s1/add_on/pack_50#2/0"]
    assert BEGAN < NOW
