"""`purser migrate`: brings the control plane's database to this version, and says that it was restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli import output

if TYPE_CHECKING:
    from control_plane.leases.restored import Marked


def migrate(
    database: Annotated[
        str | None,
        typer.Option("--database", help="URL of the database. Default: as the control plane's own setting."),
    ] = None,
    *,
    restored: Annotated[
        bool,
        typer.Option(
            "--restored",
            help="Say that this database was put back to an earlier point, before a control plane starts on it: "
            "sidecars present what they hold and send their usage of the last day again, and nothing is leased "
            "for one lease time. Once per restore.",
        ),
    ] = False,
) -> None:
    """Bring the control plane's database to this version; again changes nothing."""
    import asyncio

    import sqlalchemy.exc
    from sqlalchemy.engine import make_url

    from control_plane.config import settings_from
    from control_plane.db.engine import UnsupportedDatabase
    from control_plane.db.migrate import upgrade

    try:
        url = settings_from(database=database).database
        version = asyncio.run(upgrade(url))
        marked = asyncio.run(_mark(url)) if restored else None
        shown = make_url(url).render_as_string(hide_password=True)
    except (UnsupportedDatabase, sqlalchemy.exc.SQLAlchemyError, OSError, ValueError) as error:
        raise output.fail(error) from error
    typer.echo(f"{shown} is at version {version}")
    if marked is not None:
        typer.echo(f"restored: generation {marked.generation}, revisions go on after {marked.revision}")


async def _mark(url: str) -> Marked:
    from control_plane.db.engine import create_engine
    from control_plane.db.unit_of_work import Database
    from control_plane.leases.restored import mark_restored

    database = Database(create_engine(url))
    try:
        return await database.transact(mark_restored)
    finally:
        await database.close()
