"""Recalls: leases of a balance are wanted back. The feed fans them out; holders answer when they have
obeyed.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert
from sqlalchemy.dialects import postgresql, sqlite

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.feed.bus import Bus
from control_plane.leases.tables import recall_answers, recalls
from control_plane.ledger.identity import new_id
from control_plane.ledger.rows import BalanceRow


async def post_recalls(uow: UnitOfWork, rows: Sequence[BalanceRow], *, idle_only: bool) -> dict[str, str]:
    """Writes one recall per balance; returns balance id → recall id. The balances are locked by the caller.

    Whoever acquired before holds an earlier revision than the recall's: balances were locked after that.
    """
    revision = await uow.read_revision()
    if not idle_only and uow.revision is None:
        revision += (
            1  # this transaction takes a later one at its commit; no reply for these balances has seen it
        )
    made: list[dict[str, Any]] = [
        {
            "id": new_id("rcl", uow.now),
            "balance_id": row.id,
            "customer_id": row.customer_id,
            "subject_id": row.subject_id,
            "name": row.name,
            "revision": revision,
            "idle_only": idle_only,
            "created_at": uow.now,
        }
        for row in rows
    ]
    if made:
        await uow.connection.execute(insert(recalls), made)
        uow.after_commit(uow.kept(Bus).recalls_posted)
    return {row["balance_id"]: row["id"] for row in made}


async def answer_recall(
    uow: UnitOfWork,
    *,
    recall_id: str,
    outbox_id: str,
    incarnation_id: str,
    last_seq: int,
    lease_ids: Sequence[str],
) -> None:
    """A holder has obeyed: everything it could give back of these leases is written in its outbox, up to `last_seq`. A
    later answer takes the place of an earlier one.
    """
    known = (await uow.connection.execute(recalls.select().where(recalls.c.id == recall_id))).first()
    if known is None:
        return
    answer = {
        "recall_id": recall_id,
        "outbox_id": outbox_id,
        "incarnation_id": incarnation_id,
        "last_seq": last_seq,
        "lease_ids": list(lease_ids),
        "answered_at": uow.now,
    }
    await uow.connection.execute(_keep_answer(uow), answer)
    bus, balance = uow.kept(Bus), known.balance_id
    uow.after_commit(lambda: bus.balance_changed(balance))


def _keep_answer(uow: UnitOfWork) -> Any:
    on_postgresql = uow.connection.dialect.name == "postgresql"
    into = (postgresql.insert if on_postgresql else sqlite.insert)(recall_answers)
    said = {name: into.excluded[name] for name in ("last_seq", "lease_ids", "answered_at")}
    return into.on_conflict_do_update(
        index_elements=["recall_id", "outbox_id", "incarnation_id"],
        set_=said,
        where=recall_answers.c.last_seq <= into.excluded.last_seq,
    )
