"""Answers: the engine's decision with this sidecar's balances, freshness and ids, encoded once."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from sidecar.deciding.judging import Judged
from sidecar.deciding.spending import Spent
from sidecar.deciding.standings import Standings, after
from sidecar.engine.catalog import Catalog
from sidecar.engine.decision import Decision, Freshness, Standing, build
from sidecar.engine.entitlement import Entitlements
from sidecar.engine.evaluate import Draw
from sidecar.engine.values import BalanceKind, Reason
from sidecar.runtime.clock import Clock
from sidecar.view.memory import View


class Takes(Enum):
    """What a decision does with what it draws."""

    NOTHING = 0
    USES = 1
    RESERVES = 2


@dataclass(frozen=True, slots=True)
class Answers:
    """Builds and encodes decisions. Thread-safe."""

    view: View
    standings: Standings
    clock: Clock
    new_id: Callable[[], str]
    """A decision id: random, at most 64 bytes."""
    encode: Callable[[Decision], bytes]

    def encoded(
        self, judged: Judged, spent: Spent, *, decision_id: str, at: datetime, takes: Takes = Takes.NOTHING
    ) -> bytes:
        """The whole decision."""
        return self.encode(self.decision(judged, spent, decision_id=decision_id, at=at, takes=takes))

    def decision(
        self, judged: Judged, spent: Spent, *, decision_id: str, at: datetime, takes: Takes = Takes.NOTHING
    ) -> Decision:
        """The whole decision; `takes`: what becomes of the draws, which the balances shown do not count yet."""
        entitlements = judged.entitlements or self._nobody(judged)
        standings = spent.standings
        if standings is None:
            standings = self.standings.of(judged.bill.charges, at)
        if spent.verdicts:
            for ref, verdict in spent.verdicts.items():
                standings[ref] = after(standings[ref], verdict)
        if takes is not Takes.NOTHING:
            for draw in spent.outcome.draws:
                if not draw.spec.decided_remotely and draw.spec.kind is not BalanceKind.RATE:
                    standings[draw.ref] = _drawn(standings[draw.ref], draw, takes)
        return build(
            bill=judged.bill,
            outcome=spent.outcome,
            entitlements=entitlements,
            standings=standings,
            freshness=judged.freshness,
            decision_id=decision_id,
            retry_after=spent.retry_after,
        )

    def recorded_as_fact(self) -> bytes:
        """What a consume hears whose key was reported before, with the same content: it is recorded, and
        nobody decided.
        """
        return self.encode(
            Decision(
                decision_id=self.new_id(),
                allowed=True,
                reason=Reason.OK,
                message="recorded before as a fact",
                freshness=self._freshness(),
            )
        )

    def _freshness(self) -> Freshness:
        return self.view.pulse.freshness(self.clock.monotonic())

    def _nobody(self, judged: Judged) -> Entitlements:
        revision, catalog = self.view.current_catalog or (0, Catalog())
        return Entitlements(
            customer_id=judged.party.customer_id,
            parent_id="",
            standing=judged.party.refusal,
            catalog=catalog,
            catalog_revision=revision,
        )


def _drawn(standing: Standing, draw: Draw, takes: Takes) -> Standing:
    over = draw.beyond + draw.uncovered
    used, overage, reserved = standing.used, standing.overage, standing.reserved
    if takes is Takes.RESERVES:
        reserved += draw.within + over
    else:
        used, overage = used + draw.within + over, overage + over
    return Standing(
        standing.limit,
        used,
        overage,
        reserved,
        standing.remaining,
        standing.resets_at,
        standing.next_expiry_at,
    )
