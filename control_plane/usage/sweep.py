"""What time does to the books, step by step, each in a transaction of its own. Any number of processes may
sweep.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.leases.letting_go import forget_lapsed, sweep_verdicts
from control_plane.leases.quarantine import forget_replies, sweep_leases
from control_plane.leases.settings import DEFAULTS, LeaseSettings
from control_plane.ledger.expiry import sweep_grants
from control_plane.ledger.limits import sweep_limits
from control_plane.usage.keys import forget_keys
from control_plane.usage.lateness import KEPT_MIN

_ROUNDS_MAX: Final = 100

Step = Callable[[UnitOfWork], Awaitable[int]]


async def sweep(database: Database, settings: LeaseSettings = DEFAULTS) -> None:
    """Does everything that is due: leases are quarantined, presumed and closed; grants end, roll over and
    begin; limits change; verdicts of silent sidecars go by the policy.

    Call it every second or so. A long backlog is worked off in portions.
    """
    await _until_done(database, lambda uow: sweep_leases(uow, settings))
    await _until_done(database, sweep_grants)
    await _until_done(database, lambda uow: sweep_limits(uow, settings))
    await _until_done(database, lambda uow: sweep_verdicts(uow, settings))


async def forget(database: Database, settings: LeaseSettings = DEFAULTS) -> None:
    """Deletes what nobody can ask for any more: stored replies, recalls, old keys. Call it every hour or
    so.
    """
    await database.transact(lambda uow: forget_replies(uow, settings))
    await database.transact(lambda uow: forget_keys(uow, days=KEPT_MIN.days))
    await database.transact(forget_lapsed)


async def _until_done(database: Database, step: Step) -> None:
    for _ in range(_ROUNDS_MAX):
        if not await database.transact(step):
            return
