"""Random interleavings of what sidecars and time do to a gauge, against what callers were told."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from control_plane.leases.gauges import violations
from control_plane.leases.sessions import Superseded
from control_plane.usage.sweep import forget, sweep
from tests.integration.control_plane.leases.holder import SETTINGS
from tests.integration.control_plane.leases.test_gauges import (
    ADD,
    REMOVE,
    SET,
    ask,
    give_up,
    standing,
    used,
    write,
)
from tests.integration.control_plane.leases.test_remote import begun
from tests.properties.control_plane.leases import holders_machine
from tests.properties.control_plane.leases.holders_machine import WHICH, HoldersMachine

LIMIT = 2
WHO = ("ann", "bob", "cleo")


class Wish(NamedTuple):
    """What a caller asks for."""

    change: Any
    quantity: int


WISHES = st.sampled_from(
    [Wish(ADD, 1), Wish(ADD, 1), Wish(ADD, 2), Wish(REMOVE, 0), Wish(SET, 1), Wish(SET, 2)]
)


@dataclass
class Sidecar(holders_machine.Sidecar):
    """And what it has to give up."""

    came_to_nothing: list[str] = field(default_factory=list)

    def forget(self) -> None:
        """It does not know what came to nothing."""
        self.came_to_nothing = []


class SeatsMachine(HoldersMachine[Sidecar]):
    """Two sidecars, two seats, three who want them."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, int] = dict.fromkeys(WHO, 0)
        """What each holds by what callers were told: nothing but what was acknowledged."""

    @initialize()
    def begin(self) -> None:
        """Nobody holds anything."""
        self.run(self._begin())

    async def _begin(self) -> None:
        await self.open_database()
        self.sidecars = [Sidecar(holder) for holder in await begun(self.database, "one", "two")]

    @rule(which=WHICH, who=st.sampled_from(WHO), wish=WISHES, works=st.booleans())
    def consume(self, which: int, who: str, wish: Wish, works: bool) -> None:
        """A caller asks; what is allowed is written and acknowledged, or the write fails and nothing is."""
        sidecar = self.sidecars[which]
        self.clock.advance(seconds=1)
        self.keys += 1
        key = f"key-{self.keys}"
        asked = ask(
            sidecar.holder,
            who,
            key,
            self.clock(),
            need=wish.quantity,
            adds=wish.change == ADD,
            request_id=key,
        )
        if sidecar.is_dead:
            with pytest.raises(Superseded):
                self.run(asked)
            return
        verdict = self.run(asked)
        if not verdict.allowed:
            return
        if works:
            write(sidecar.holder, who, key, self.clock(), wish.change, wish.quantity)
            adds = wish.change == ADD
            self.told[who] = max(self.told[who], wish.quantity) if adds else wish.quantity
        else:
            sidecar.came_to_nothing.append(key)

    @rule(which=WHICH)
    def give_up(self, which: int) -> None:
        """What came to nothing is given up at last."""
        sidecar = self.sidecars[which]
        if sidecar.came_to_nothing and not sidecar.is_dead:
            self.run(give_up(sidecar.holder, *sidecar.came_to_nothing))
            sidecar.came_to_nothing = []

    @rule(which=WHICH)
    def upload(self, which: int) -> None:
        """The network is there."""
        holder = self.sidecars[which].holder
        if holder.last_seq:
            assert not self.run(holder.upload()).dead_letters

    @rule(hours=st.sampled_from([0.1, 1, 25]))
    def time_passes(self, hours: float) -> None:
        """Up to where silence is presumed; the sweep does what is due."""
        self.clock.advance(hours=hours)
        self.run(sweep(self.database, SETTINGS))
        self.run(forget(self.database, SETTINGS))

    async def check(self) -> None:
        """Callers were never told of more seats than there are, and the books agree with themselves."""
        assert sum(self.told.values()) <= LIMIT, self.told
        async with self.database.read() as uow:
            assert await violations(uow) == []
        assert await used(self.database) <= LIMIT

    async def settle(self) -> None:
        """What is held in the end is what callers were told, and nothing is left open."""
        for sidecar in self.sidecars:
            if sidecar.holder.last_seq:
                await sidecar.holder.upload()
            await self.drained(sidecar)
            await sidecar.holder.close(sidecar.holder.incarnation_id, sidecar.holder.last_seq)
        await self.check()
        stands = await standing(self.database)
        assert (stands.spent, stands.presumed) == (sum(self.told.values()), 0)


TestSeats = SeatsMachine.TestCase
TestSeats.__doc__ = (
    "Whatever happens in whatever order, no seat is given twice, and none stays taken for nothing."
)
TestSeats.settings = holders_machine.SETTINGS
