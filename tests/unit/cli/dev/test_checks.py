"""Checks: green for a story in which every promise held, red for each way in which one did not."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

import pytest

from clients.cli.dev.audit import Audit
from clients.cli.dev.checks import Played, check
from clients.cli.dev.heard import Acknowledged, Heard
from clients.cli.dev.scenes.killed import Killed
from clients.cli.dev.scenes.lowered import Lowered
from clients.cli.dev.scenes.race import Race
from clients.cli.dev.scenes.unplugged import Unplugged


def played() -> Played:
    """A story as it should be."""
    heard = Heard()
    heard.acknowledged(Acknowledged("ada", "k", {"input_tokens": "1"}, "text-gen-v3", decided=True))
    return Played(
        race=Race(6, 6, Counter({"INSUFFICIENT_CREDITS": 14}), 90),
        unplugged=Unplugged(
            leased=Decimal("0.64"),
            spent=Decimal("0.60"),
            each=Decimal("0.03"),
            sidecars=2,
            refusals=Counter({"CONTROL_PLANE_UNREACHABLE": 2}),
            oldest_seconds=4.1,
            sources=frozenset({"CACHED"}),
            fact_taken=True,
            stranger_reason="CUSTOMER_NOT_FOUND",
            stranger_milliseconds=3,
            drained_seconds=0.4,
        ),
        killed=Killed("SETTLED", 4, 8, 1, 12, 1.5),
        lowered=Lowered(40, "OK", "LIMIT_REACHED", (30, 45), 12, "LIMIT_REACHED"),
        heard=heard,
        audit=Audit(events_in_ledger=1),
        dead_letters=0,
    )


def red(story: Played) -> list[str]:
    return [each.name for each in check(story) if not each.held]


def test_all_green() -> None:
    """Nothing is red when everything held, and each check says by which figures."""
    assert red(played()) == []
    assert all(each.figures for each in check(played()))


Change = Callable[[Played], Played]


def race(**changes: object) -> Change:
    return lambda story: dataclasses.replace(story, race=dataclasses.replace(story.race, **changes))  # type: ignore[arg-type]


def away(**changes: object) -> Change:
    return lambda story: dataclasses.replace(
        story,
        unplugged=dataclasses.replace(story.unplugged, **changes),  # type: ignore[arg-type]
    )


def kill(**changes: object) -> Change:
    return lambda story: dataclasses.replace(story, killed=dataclasses.replace(story.killed, **changes))  # type: ignore[arg-type]


def limit(**changes: object) -> Change:
    return lambda story: dataclasses.replace(story, lowered=dataclasses.replace(story.lowered, **changes))  # type: ignore[arg-type]


def audit(**changes: object) -> Change:
    return lambda story: dataclasses.replace(story, audit=dataclasses.replace(story.audit, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (race(granted=7), "as many slots as fit"),
        (race(granted=5), "as many slots as fit"),
        (race(refusals=Counter()), "as many slots as fit"),
        (audit(oversold={"iris wallet:usd": Decimal("0.1")}), "never oversold"),
        (audit(missing=["ada/k"]), "never lost"),
        (audit(twice=["ada/k"]), "never twice"),
        (audit(extra=["ada/l"]), "never twice"),
        (audit(mismatches=["ada/k: 1 in the books, 2 by the catalog"]), "exact to the last digit"),
        (audit(events_in_ledger=0), "exact to the last digit"),
        (audit(unbalanced=["ada wallet:usd"]), "balances add up"),
        (lambda story: dataclasses.replace(story, dead_letters=1), "nothing left over"),
        (away(sources=frozenset({"LIVE"})), "always answered, honestly"),
        (away(oldest_seconds=0.0), "always answered, honestly"),
        (away(stranger_milliseconds=101), "always answered, honestly"),
        (away(fact_taken=False), "always answered, honestly"),
        (away(spent=Decimal("0.66")), "slices to the last, not beyond"),
        (away(spent=Decimal("0.57")), "slices to the last, not beyond"),
        (kill(state="EXPIRED"), "kill -9 in mid-stream"),
        (kill(events=2), "kill -9 in mid-stream"),
        (limit(after="OK"), "a change within a second"),
        (limit(before="LIMIT_REACHED"), "a change within a second"),
        (limit(milliseconds=(30, 1001)), "a change within a second"),
        (limit(min_revision_reason="OK"), "a change within a second"),
    ],
)
def test_red(change: Change, name: str) -> None:
    """Each broken promise turns its own check red, and no other."""
    assert red(change(played())) == [name]
