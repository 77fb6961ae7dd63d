"""The one MetaData that every room's `tables.py` declares its tables in."""

import importlib
import importlib.util
import pkgutil

from sqlalchemy import MetaData

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
"""Every constraint has a name, so that a migration can drop it on any database."""

metadata = MetaData(naming_convention=NAMING)


def all_tables() -> MetaData:
    """The metadata with every room's tables in it: what migrations compare the database with."""
    house = importlib.import_module("control_plane")
    for room in pkgutil.iter_modules(house.__path__, prefix="control_plane."):
        tables = f"{room.name}.tables"
        if room.ispkg and importlib.util.find_spec(tables) is not None:
            importlib.import_module(tables)
    return metadata
