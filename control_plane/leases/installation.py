"""Which installation this is: sidecars give their usage to the one that they know, and to no other."""

from sqlalchemy import select

from control_plane.db.tables import installation
from control_plane.db.unit_of_work import UnitOfWork
from purser.sync.v1 import session_pb2 as session


class AnotherInstallation(Exception):
    """The sidecar's outbox belongs to another installation: its usage is not for these books."""


async def read_installation(uow: UnitOfWork) -> str:
    """Its id, as it was made with the database."""
    found: str = (await uow.connection.execute(select(installation.c.installation_id))).scalar_one()
    return found


def check_installation(mine: str, holder: session.Holder) -> None:
    """Who belongs to none yet is welcome. Raises AnotherInstallation."""
    if holder.installation_id not in {"", mine}:
        raise AnotherInstallation(
            f"outbox {holder.outbox_id} belongs to installation {holder.installation_id}; this is {mine}"
        )
