"""What a fact comes to: rated and charged by the engine, with what its grants have left at its instant."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from control_plane.ledger.facts import is_before_a_cut, read_facts
from control_plane.ledger.holding import Holding, Vault
from control_plane.ledger.occurrences import COUNTED, Wanted
from control_plane.ledger.rows import BEYOND_LIMIT, GrantRow, in_burn_order
from control_plane.usage.falling import Falling
from control_plane.usage.records import Item
from sidecar.engine.bill import bill
from sidecar.engine.decide import decide
from sidecar.engine.entitlement import BalanceSpec, Entitlements
from sidecar.engine.evaluate import Bill, Draw, Fund, Outcome
from sidecar.engine.values import BalanceKind, BalanceRef, Event


@dataclass(slots=True)
class Judged:
    """An event with the rights that its customer had, and what it touches."""

    item: Item
    event: Event
    entitlements: Entitlements
    bill: Bill

    def wanted(self) -> Iterable[Wanted]:
        """The balances that it touches, gauges and remote meters included; rates are not counted for
        facts.
        """
        for charge in self.bill.charges:
            if charge.spec.kind is not BalanceKind.RATE:
                yield Wanted(charge.ref, charge.spec, self.event.occurred_at, self.entitlements.grants)


def judge(item: Item, event: Event, entitlements: Entitlements) -> Judged:
    """Raises ValueError where the event can not be read (a part larger than its whole, an amount out of
    range).
    """
    return Judged(item, event, entitlements, bill(entitlements, event=event))


def window_of(spec: BalanceSpec, at: datetime) -> datetime | None:
    """The window of a balance that an instant falls into: its period's beginning; None: all time."""
    if spec.kind in COUNTED and spec.period is not None:
        return spec.period.window(at).start
    return None


class Purse:
    """What grants have left for facts, as a batch of them goes through in order of occurrence.

    Where the first is of before a lower limit, what is left differs from one instant to the next (`falling.py`).
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._left: dict[str, int] = {}
        self._windows: dict[tuple[str, datetime | None], Falling | None] = {}
        """None: the limit in force is that of all its facts."""

    async def price(self, judged: Judged, holdings: Mapping[BalanceRef, Holding]) -> Outcome:
        """Decides as a fact, and takes what it draws off what is left for the next."""
        at = judged.event.occurred_at
        funds: dict[BalanceRef, Fund] = {}
        for charge in judged.bill.charges:
            holding, spec = holdings.get(charge.ref), charge.spec
            if holding is None or spec.unlimited or spec.decided_remotely:
                continue
            window = await self._window(holding, spec, at)
            if window is None:
                funds[charge.ref] = self._fund(holding, spec, at)
            else:
                funds[charge.ref] = window.fund(at, charge.quantity)
        outcome = decide(judged.bill, funds, fact=True)
        for draw in outcome.draws:
            if draw.ref not in funds:
                continue
            holding, spec = holdings[draw.ref], draw.spec
            window = await self._window(holding, spec, at)
            if window is None:
                self._take(holding, draw, at)
            else:
                window.use(at, draw.within + draw.beyond + draw.uncovered)
        return outcome

    async def _window(self, holding: Holding, spec: BalanceSpec, at: datetime) -> Falling | None:
        start = window_of(spec, at)
        key = (holding.row.id, start)
        if key not in self._windows:
            self._windows[key] = None
            if is_before_a_cut(holding.window(start), at):
                window = self._windows[key] = Falling(holding.window(start))
                for fact in await read_facts(self._vault, holding.row.id, start):
                    window.use(fact.occurred_at, fact.amount)
        return self._windows[key]

    def _active(self, holding: Holding, spec: BalanceSpec, at: datetime) -> list[GrantRow]:
        """Those of its window: after a move to another anchor the grants of two windows are active at once."""
        return in_burn_order(grant for grant in holding.window(window_of(spec, at)) if grant.active(at))

    def _has(self, grant: GrantRow) -> int:
        return self._left.setdefault(grant.id, grant.available + grant.ended - grant.cut - grant.rolled)

    def _fund(self, holding: Holding, spec: BalanceSpec, at: datetime) -> Fund:
        active = self._active(holding, spec, at)
        general = sum(self._has(grant) for grant in active if not grant.scope and grant.role != BEYOND_LIMIT)
        beyond = sum(self._has(grant) for grant in active if grant.role == BEYOND_LIMIT)
        features = {feature for grant in active for feature in grant.scope}
        scoped = {
            feature: sum(
                self._has(grant) for grant in active if grant.serves(feature) and grant.role != BEYOND_LIMIT
            )
            for feature in features
        }
        return Fund(general, beyond, scoped if spec.kind is BalanceKind.WALLET and scoped else None)

    def _take(self, holding: Holding, draw: Draw, at: datetime) -> None:
        rest = draw.within + draw.beyond
        for grant in self._active(holding, draw.spec, at):
            if rest and grant.serves(draw.feature):
                part = min(rest, self._has(grant))
                self._left[grant.id] -= part
                rest -= part
