"""The oracle: costs from the catalog's text, by its own arithmetic."""

import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import pytest

from clients.cli.dev import catalog_text, oracle

MODEL = "text-gen-v3"


@pytest.fixture
def prices() -> oracle.Oracle:
    """Of the example catalog's card."""
    return oracle.read(catalog_text.EXAMPLE.read_text(encoding="utf-8"), "llm")


@pytest.mark.parametrize(
    ("window", "cost"),
    [("8192", "0.014232"), ("8193", "0.0256176"), ("32768", "0.0256176"), ("131072", "0.0455424")],
)
def test_windows(prices: oracle.Oracle, window: str, cost: str) -> None:
    """The contract's example costs what the contract says in each window, whose bounds are inclusive."""
    measures = {"input_tokens": "412", "output_tokens": "1083", "context_window": window}
    assert prices.rounded(prices.cost(measures, MODEL)) == Decimal(cost)


def test_a_window_that_is_not_given_is_the_sum(prices: oracle.Oracle) -> None:
    """Without a window the tokens decide: 8,192 of them still take the first tier, one more the second."""
    assert prices.cost({"input_tokens": "8192"}, MODEL) * 1000 == 8192 * prices.prices[MODEL][0].price
    assert prices.rounded(prices.cost({"input_tokens": "8193"}, MODEL)) == Decimal("0.0442422")


def test_parts_are_taken_off_their_whole() -> None:
    """The contract's example by hand: 10,000 in, of them 6,000 cached at 0.0003, 500 out."""
    text = catalog_text.EXAMPLE.read_text(encoding="utf-8")
    cached = (
        '- {dimension: cached_input_tokens, per: 1000, price: "0.0003"}\n        - {dimension: output_tokens'
    )
    prices = oracle.read(text.replace("- {dimension: output_tokens", cached, 1), "llm")
    measures = {"input_tokens": "10000", "cached_input_tokens": "6000", "output_tokens": "500"}
    assert prices.rounded(prices.cost(measures, MODEL)) == Decimal("0.03564")


def test_a_part_without_a_price_stays_in_its_whole(prices: oracle.Oracle) -> None:
    """Where nothing prices the part apart, the whole is charged."""
    with_part = prices.cost({"input_tokens": "100", "cached_input_tokens": "60"}, MODEL)
    assert with_part == prices.cost({"input_tokens": "100"}, MODEL)


def test_rounds_half_even_once(prices: oracle.Oracle) -> None:
    """Halves go to the even neighbour."""
    half = Fraction(1, 2 * 10**9)
    assert prices.rounded(half) == 0
    assert prices.rounded(3 * half) == Decimal("0.000000002")


def test_above_every_tier(prices: oracle.Oracle) -> None:
    """What the card does not price has no cost, rather than a wrong one."""
    with pytest.raises(ValueError, match="above every tier"):
        prices.cost({"input_tokens": "1", "context_window": "131073"}, MODEL)


def test_replacing_a_value_keeps_every_other_character() -> None:
    """A limit is changed in place; comments and layout stay."""
    text = catalog_text.EXAMPLE.read_text(encoding="utf-8")
    changed = catalog_text.replaced(text, "plans.free.entitlements.chat.limit", "1500")
    differing = [
        (before, after)
        for before, after in zip(text.splitlines(), changed.splitlines(), strict=True)
        if before != after
    ]
    assert [(before.strip(), after.strip()) for before, after in differing] == [
        ("limit: 100000", "limit: 1500")
    ]


@pytest.mark.parametrize(
    "path", ["plans.nobody.limit", "plans.free", "plans.free.entitlements.chat.limit.more"]
)
def test_replacing_what_is_not_there(path: str) -> None:
    """A path that leads to no single value is an error, not a change somewhere else."""
    with pytest.raises(catalog_text.NoSuchValue):
        catalog_text.replaced(catalog_text.EXAMPLE.read_text(encoding="utf-8"), path, "1")


def test_the_oracle_stands_alone() -> None:
    """What judges the engine's arithmetic shares no line with it: neither the engine nor a server is imported."""
    code = "import sys, clients.cli.dev.audit; print([m for m in sys.modules if m.startswith(('sidecar', 'control'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
