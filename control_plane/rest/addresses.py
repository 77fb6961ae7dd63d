"""What the address of a request under /v1 says, looked at in one place before anything is done."""

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from control_plane.db.types import is_storable
from control_plane.errors import FieldProblem, Invalid


async def check_address(request: Request) -> None:
    """Every parameter is one that the route knows, and holds what a database can look up. Raises Invalid.

    A misspelt filter that is ignored would answer with too much, and nobody would see it.
    """
    route = request.scope["route"]
    assert isinstance(route, APIRoute), "the dependency of a route"
    known = sorted(_query_names(route.dependant))
    said = (*request.path_params.items(), *request.query_params.multi_items())
    wrong = [FieldProblem(name, "without NUL") for name, value in said if not is_storable(str(value))]
    mend = f"known here are {', '.join(known)}" if known else "none is known here"
    wrong += [
        FieldProblem(name, f"is no parameter; {mend}")
        for name in dict.fromkeys(request.query_params)
        if name not in known
    ]
    if wrong:
        raise Invalid(*wrong)


def _query_names(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for each in dependant.dependencies:
        yield from _query_names(each)
