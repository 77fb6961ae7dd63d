"""sidecars over REST: who is connected, and the operator's word that one is dead; on both databases."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from control_plane.app import Running
from control_plane.db.engine import system_now
from control_plane.leases.tables import sessions
from tests.integration.control_plane.leases.holder import Holder, check_books, ref
from tests.integration.control_plane.leases.test_acquire import prepaid
from tests.integration.control_plane.rest.asking import ok, problem
from tests.integration.control_plane.serving import PATIENCE_SECONDS, following, rest_of, serving

PATH = "/sidecars/o1/i1/declare-dead"


@pytest.fixture
async def control_plane(database_url: str) -> AsyncIterator[Running]:
    """A control plane where the sidecar o1/i1 has leased 0.1 of 0.5 credits."""
    async with serving(database_url) as running:
        await prepaid(running.database)
        holder = Holder(running.database, outbox_id="o1", incarnation_id="i1")
        await holder.open()
        await holder.acquire(ref("acme"), 60)
        await holder.acquire(ref("acme"), 40)
        yield running


@pytest.fixture
async def rest(control_plane: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client of its REST."""
    async with rest_of(control_plane) as client:
        yield client


async def shown(rest: httpx.AsyncClient) -> Any:
    (sidecar,) = (await ok(rest.get("/sidecars")))["items"]
    return sidecar


async def eventually(rest: httpx.AsyncClient, holds: Callable[[Any], bool]) -> Any:
    """The sidecar, once something holds of it."""
    for _ in range(round(PATIENCE_SECONDS / 0.02)):
        if holds(sidecar := await shown(rest)):
            return sidecar
        await asyncio.sleep(0.02)
    raise AssertionError("it never held")


async def test_it_says_what_it_did(control_plane: Running, rest: httpx.AsyncClient) -> None:
    """How many leases are in quarantine now, and how much of which balance; and that is so."""
    said = await ok(rest.post(PATH, json={}))
    assert (said["leases"], said["lease_count"], said["state"]) == ("quarantine", 2, "superseded")
    names = {"customer_id": "acme", "subject_id": None, "balance": "wallet:credit", "unit": "credit"}
    assert said["balances"] == [names | {"leases": 2, "verdicts": 0, "amount": "0.1"}]
    assert said["revision"] == 4, "the newest: leases take none"
    assert said["declared_dead_at"] == (await shown(rest))["declared_dead_at"] is not None
    leases = (await ok(rest.get("/leases")))["items"]
    assert [lease["state"] for lease in leases] == ["quarantined", "quarantined"]
    await check_books(control_plane.database)


async def test_a_body_is_not_needed(rest: httpx.AsyncClient) -> None:
    """What is not said is the safe choice."""
    assert (await ok(rest.post(PATH)))["leases"] == "quarantine"


async def test_its_key_does_it_once(rest: httpx.AsyncClient) -> None:
    """A repeat is answered as the first time; the same key for another choice is refused."""
    key = {"Idempotency-Key": "k"}
    first = await ok(rest.post(PATH, json={"leases": "quarantine"}, headers=key))
    assert await ok(rest.post(PATH, json={"leases": "quarantine"}, headers=key)) == first
    problem(await rest.post(PATH, json={"leases": "release"}, headers=key), 409)
    assert (await ok(rest.post(PATH, json={"leases": "quarantine"})))["lease_count"] == 0


async def test_release_is_a_choice(control_plane: Running, rest: httpx.AsyncClient) -> None:
    """Said in so many words, it frees them at once."""
    said = await ok(rest.post(PATH, json={"leases": "release"}))
    assert (said["leases"], said["lease_count"], said["balances"][0]["amount"]) == ("release", 2, "0.1")
    assert {lease["state"] for lease in (await ok(rest.get("/leases")))["items"]} == {"closed"}
    await check_books(control_plane.database)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (PATH, {"leases": "burn"}, 422),
        (PATH, {"lease": "release"}, 422),
        (PATH, [], 422),
        ("/sidecars/o1/nobody/declare-dead", {}, 404),
        ("/sidecars/o%00/i1/declare-dead", {}, 422),
    ],
)
async def test_what_makes_no_sense_changes_nothing(
    rest: httpx.AsyncClient, path: str, body: Any, status: int
) -> None:
    """An unknown choice, a field too many, a sidecar that nobody knows."""
    problem(await rest.post(path, json=body), status)
    assert {lease["state"] for lease in (await ok(rest.get("/leases")))["items"]} == {"open"}


async def test_what_is_connected_is_not_released(control_plane: Running, rest: httpx.AsyncClient) -> None:
    """A sidecar that follows the feed lives: releasing its leases would oversell. Quarantine is safe."""
    assert (await shown(rest))["connected"] is False
    async with following(control_plane):
        assert (await shown(rest))["connected"] is True
        assert "connected" in problem(await rest.post(PATH, json={"leases": "release"}), 409)["detail"]
        assert (await ok(rest.post(PATH, json={"leases": "quarantine"})))["lease_count"] == 2
    await eventually(rest, lambda sidecar: not sidecar["connected"])
    assert (await ok(rest.post(PATH, json={"leases": "release"})))["lease_count"] == 2


async def test_who_follows_is_seen(control_plane: Running, rest: httpx.AsyncClient) -> None:
    """A sidecar that only follows was last seen now, and not when it last reported."""
    async with control_plane.database.begin() as uow:
        long_ago = system_now() - timedelta(hours=3)
        await uow.connection.execute(update(sessions).values(seen_at=long_ago))
    before = (await shown(rest))["seen_at"]
    async with following(control_plane):
        await eventually(rest, lambda sidecar: sidecar["seen_at"] != before)
