"""Green or red: what each part of the story must come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from clients.cli.dev.audit import Audit
from clients.cli.dev.heard import Heard
from clients.cli.dev.outcome import Check
from clients.cli.dev.scenes.killed import Killed
from clients.cli.dev.scenes.lowered import Lowered
from clients.cli.dev.scenes.race import Race
from clients.cli.dev.scenes.unplugged import Unplugged

MOST_SHOWN_MILLISECONDS: Final = 1000
MOST_STRANGER_MILLISECONDS: Final = 100
MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Played:
    """The figures of a whole story."""

    race: Race
    unplugged: Unplugged
    killed: Killed
    lowered: Lowered
    heard: Heard
    audit: Audit
    dead_letters: int


def check(played: Played) -> list[Check]:
    """Every check, in the order in which they are shown."""
    return [judge(played) for judge in CHECKS]


def _race(played: Played) -> Check:
    race = played.race
    # A slow machine may refuse for lack of time; what matters is that no slot is sold twice or left empty.
    held = race.granted == race.room and race.refusals.total() > 0
    return Check("as many slots as fit", held, f"{race.granted} granted, room for {race.room}")


def _never_oversold(played: Played) -> Check:
    over = played.audit.oversold
    figures = _named([f"{name} by {amount:f}" for name, amount in over.items()])
    return Check("never oversold", not over, figures or "0 overage from decided usage on hard balances")


def _never_lost(played: Played) -> Check:
    audit = played.audit
    told = len(played.heard.events)
    figures = f"{told:,} acknowledged, {audit.events_in_ledger:,} in the ledger"
    if audit.missing:
        figures += f"; missing {_named(audit.missing)}"
    return Check("never lost", not audit.missing and told > 0, figures)


def _never_twice(played: Played) -> Check:
    wrong = [*played.audit.twice, *played.audit.extra]
    return Check(
        "never twice",
        not wrong,
        _named(wrong) or f"{played.heard.repeated} calls repeated, none counted twice",
    )


def _exact(played: Played) -> Check:
    audit = played.audit
    figures = _named(audit.mismatches) or f"{audit.events_in_ledger:,} costs recomputed, every digit equal"
    return Check("exact to the last digit", not audit.mismatches and audit.events_in_ledger > 0, figures)


def _balanced(played: Played) -> Check:
    return Check(
        "balances add up",
        not played.audit.unbalanced,
        _named(played.audit.unbalanced) or "spent + overage = used",
    )


def _booked(played: Played) -> Check:
    return Check("nothing left over", not played.dead_letters, f"{played.dead_letters} dead letters")


def _answered(played: Played) -> Check:
    away = played.unplugged
    honest = away.sources == {"CACHED"} and away.oldest_seconds > 1
    quick = away.stranger_milliseconds < MOST_STRANGER_MILLISECONDS
    return Check(
        "always answered, honestly",
        honest and quick and away.fact_taken,
        f"{', '.join(sorted(away.sources))}, up to {away.oldest_seconds:.1f} s old; "
        f"an unknown customer in {away.stranger_milliseconds} ms",
    )


def _to_the_last(played: Played) -> Check:
    away = played.unplugged
    rest = away.leased - away.spent
    held = 0 <= rest < away.each * away.sidecars and away.refusals.total() == away.sidecars
    return Check(
        "slices to the last, not beyond",
        held,
        f"{away.spent} of {away.leased} usd spent in {away.each} steps by {away.sidecars} sidecars",
    )


def _survived(played: Played) -> Check:
    killed = played.killed
    held = killed.state == "SETTLED" and killed.events == 1
    return Check(
        "kill -9 in mid-stream",
        held,
        f"{killed.state} after {killed.chunks} chunks, {killed.events} event in the books",
    )


def _shown(played: Played) -> Check:
    lowered = played.lowered
    slowest = max(lowered.milliseconds)
    held = (
        lowered.before == "OK"
        and lowered.after == lowered.min_revision_reason == "LIMIT_REACHED"
        and slowest <= MOST_SHOWN_MILLISECONDS
    )
    return Check(
        "a change within a second",
        held,
        f"{slowest} ms; with min_revision in {lowered.min_revision_milliseconds} ms",
    )


def _named(things: list[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(things) - MOST_NAMED} more" if len(things) > MOST_NAMED else ""
    return "; ".join(things[:MOST_NAMED]) + more


CHECKS: Final[tuple[Callable[[Played], Check], ...]] = (
    _race,
    _never_oversold,
    _never_lost,
    _never_twice,
    _exact,
    _balanced,
    _booked,
    _answered,
    _to_the_last,
    _survived,
    _shown,
)
