"""What an address may say, on every route under /v1."""

import httpx
import pytest

from tests.integration.control_plane.rest.asking import CALL, ok, problem


@pytest.mark.parametrize(
    ("address", "field"),
    [
        ("/customers/a%00", "customer_id"),
        ("/trace/%00", "id"),
        ("/events?subject_id=%00", "subject_id"),
        ("/events?since=9999-12-31T23:59:59-01:00", "since"),
        ("/customers?cursor=WyJcdTAwMDAiXQ", "cursor"),
        ("/events?cursor=WzkyMjMzNzIwMzY4NTQ3NzU4MDcsImEiXQ", "cursor"),
        ("/catalog/revisions/99999999999999999999", "revision"),
    ],
)
async def test_addresses_that_nothing_can_have(rest: httpx.AsyncClient, address: str, field: str) -> None:
    """What no column can hold is a problem that names where it stands in the address."""
    assert [error["field"] for error in problem(await rest.get(address), 422)["errors"]] == [field]


UNKNOWN = [
    ("/customers?colour=red", "colour", "known here are cursor, limit, parent_id"),
    ("/customers/acme?limit=1", "limit", "none is known here"),
    ("/customers/acme/ledger?cursr=x", "cursr", "known here are cursor, limit"),
    ("/trace/k1?deep=1", "deep", "none is known here"),
    ("/catalog/revisions/current?revision=1", "revision", "none is known here"),
    ("/sidecars?state=gone", "state", "'open', 'awaited', 'superseded', 'ended' or 'set_aside'"),
    ("/leases?state=gone", "state", "'open', 'quarantined', 'presumed' or 'closed'"),
    ("/dead-letters?state=gone", "state", "'open' or 'replayed'"),
    ("/events?status=gone", "status", "'booked' or 'unrated'"),
]


async def test_a_word_that_no_address_knows_is_a_problem(rest: httpx.AsyncClient) -> None:
    """A parameter that the route does not have, or a state that nothing can be in: named, with the known ones."""
    for address, field, mend in UNKNOWN:
        (error,) = problem(await rest.get(address), 422)["errors"]
        assert error["field"] == field, address
        assert mend in error["problem"], address


async def test_a_change_with_an_unknown_parameter_changes_nothing(rest: httpx.AsyncClient) -> None:
    """It is refused before anything is done."""
    found = problem(await rest.post("/events?dry_run=true", json=CALL), 422)
    assert found["errors"][0]["field"] == "dry_run"
    problem(await rest.post("/catalog/revisions?mvoe=all", content="purser: catalog/v1"), 422)
    assert (await ok(rest.get("/events")))["items"] == []


async def test_every_list_takes_limit_and_cursor(rest: httpx.AsyncClient) -> None:
    """Also those that are computed as a whole; walked one by one they are the same list."""
    await ok(rest.post("/events", json=CALL))
    for path in ("balances", "entitlements", "usage"):
        whole = (await ok(rest.get(f"/customers/acme/{path}")))["items"]
        walked: list[object] = []
        cursor: str | None = ""
        while cursor is not None:
            found = await ok(rest.get(f"/customers/acme/{path}?limit=1&cursor={cursor}"))
            walked += found["items"]
            cursor = found["next_cursor"]
        assert walked == whole
        assert walked
        problem(await rest.get(f"/customers/acme/{path}?cursor=x"), 422)
