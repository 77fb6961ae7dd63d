"""`purser migrate`: brings the control plane's database to this version."""

from __future__ import annotations

from typing import Annotated

import typer

from clients.cli import output


def migrate(
    database: Annotated[
        str | None,
        typer.Option("--database", help="URL of the database. Default: as the control plane's own setting."),
    ] = None,
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
        shown = make_url(url).render_as_string(hide_password=True)
    except (UnsupportedDatabase, sqlalchemy.exc.SQLAlchemyError, OSError, ValueError) as error:
        raise output.fail(error) from error
    typer.echo(f"{shown} is at version {version}")
