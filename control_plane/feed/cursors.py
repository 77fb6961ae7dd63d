"""How far what followers have reported is in the books, as of the transaction that also reads their balances."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import NamedTuple

from sqlalchemy import select

from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.sessions import ENDED, SET_ASIDE
from control_plane.leases.tables import HolderKey, sessions


class Counted(NamedTuple):
    """What is counted of one follower's records."""

    through: int = 0
    """The last number of its present incarnation."""
    earlier: bool = False
    """All that earlier incarnations of its outbox said they had written."""


async def read_cursors(uow: UnitOfWork, holders: Collection[HolderKey]) -> Mapping[HolderKey, Counted]:
    """By holder."""
    if not holders:
        return {}
    of_outbox: defaultdict[str, dict[str, tuple[int, bool]]] = defaultdict(dict)
    columns = (sessions.c.outbox_id, sessions.c.incarnation_id, sessions.c.cursor, sessions.c.highest_seq)
    theirs = among(sessions.c.outbox_id, {outbox_id for outbox_id, _ in holders})
    query = select(*columns).where(theirs, sessions.c.state.not_in((ENDED, SET_ASIDE)))
    for row in await uow.connection.execute(query):
        of_outbox[row.outbox_id][row.incarnation_id] = row.cursor, row.cursor >= row.highest_seq
    found: dict[HolderKey, Counted] = {}
    for outbox_id, incarnation_id in holders:
        rows = of_outbox[outbox_id]
        earlier = all(whole for name, (_, whole) in rows.items() if name != incarnation_id)
        found[outbox_id, incarnation_id] = Counted(rows.get(incarnation_id, (0, False))[0], earlier)
    return found
