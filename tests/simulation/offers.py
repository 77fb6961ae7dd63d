"""What staff does while callers call: other limits, more credits, suspensions."""

from random import Random
from typing import Any, Final

from tests.simulation.matching import Supply
from tests.simulation.stage import Stage
from tests.simulation.story import BUDGET, CUSTOMERS, SOFT_CAP, Act, Granted, Limits, catalog

ENOUGH: Final = 100_000
HOURS: Final = 2
"""So many periods of an hour has a history."""


class Offers:
    """What was offered; the methods that take an act are acts."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.published: list[tuple[float, Limits]] = [(0.0, Limits())]
        """From when on which limits were in force."""
        self.supplies: dict[str, list[Supply]] = {"acme": [], "task": []}
        """What each wallet was given."""

    async def found(self) -> None:
        """What there is at the beginning; the catalog and its customers are in the database already."""
        for granted in self._stage.story.grants:
            await self._grant(granted)

    async def grant(self, act: Act) -> None:
        """More credits, perhaps for a while only."""
        dice = Random(act.number)
        ends = self._stage.now() + 2.0 + act.seconds if dice.random() < 0.5 else None
        if act.amount and self._stage.plane.alive:
            await self._grant(Granted(dice.choice(["acme", "task"]), act.amount, None, ends))

    async def _grant(self, granted: Granted) -> None:
        plane, now = self._stage.plane, self._stage.now()
        begins = now if granted.begins is None else granted.begins
        ends = float("inf") if granted.ends is None else granted.ends
        self.supplies[granted.customer_id].append(Supply(granted.amount, begins, ends))
        self._count()
        grant_id = f"grant-{sum(map(len, self.supplies.values()))}"
        self._stage.oracle.grant_ends[grant_id] = ends
        answer = await plane.post(
            "/grants",
            id=grant_id,
            customer_id=granted.customer_id,
            unit="credit",
            amount=str(granted.amount),
            effective_at=None if granted.begins is None else plane.instant(begins),
            expires_at=None if granted.ends is None else plane.instant(ends),
        )
        self._changed(answer)

    async def give_enough(self) -> None:
        """Credits for whoever asks for some, and for all that was reported beyond what there was."""
        await self.resume(Act(self._stage.now(), "resume", number=list(CUSTOMERS).index("acme")))
        await self._grant(Granted("acme", ENOUGH))

    async def limits(self, act: Act) -> None:
        """Other limits, for everybody."""
        dice = Random(act.number)
        limits = Limits(dice.choice([10, 40, 60, 90]), dice.choice([10, 40, 80]), dice.choice([1, 3, 5]))
        if self._stage.plane.alive:
            answer = await self._stage.plane.publish(catalog(limits), move="all")
            self.published.append((self._stage.now(), limits))
            self._count()
            self._changed(answer)

    async def suspend(self, act: Act) -> None:
        """A customer gets nothing."""
        await self._let(act, suspended=True)

    async def resume(self, act: Act) -> None:
        """A customer gets again what is due."""
        await self._let(act, suspended=False)

    async def _let(self, act: Act, *, suspended: bool) -> None:
        customer_id = list(CUSTOMERS)[act.number % len(CUSTOMERS)]
        if self._stage.plane.alive:
            verb = "suspend" if suspended else "resume"
            answer = await self._stage.plane.post(f"/customers/{customer_id}/{verb}")
            self._changed(answer)
            self._stage.oracle.suspensions[customer_id].append((answer["revision"], suspended))

    def _changed(self, answer: Any) -> None:
        self._stage.oracle.revisions.append((self._stage.now(), answer["revision"]))

    def _count(self) -> None:
        """What may be decided in all, for a look at every answer; the whole truth is looked at in the end."""
        given, limits = self._stage.oracle.given, [limits for _, limits in self.published]
        given["acme"] = sum(supply.amount for supply in self.supplies["acme"])
        given["task"] = min(HOURS * BUDGET, sum(supply.amount for supply in self.supplies["task"]))
        given["ring"] = max(each.calls for each in limits)
        given["page"] = HOURS * (SOFT_CAP + max(each.pages for each in limits))
        given["team"] = max(each.seats for each in limits)
