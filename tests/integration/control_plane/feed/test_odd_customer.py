"""One customer whose rows can not be read stops nobody else, on both databases."""

from collections.abc import Sequence

import httpx
from sqlalchemy import text

from control_plane.app import Running
from control_plane.faults import Faults
from purser.sync.v1 import feed_pb2
from tests.integration.control_plane.serving import following, rest_of, serving
from tests.integration.control_plane.setting import CATALOG, make_subscriber, publish_text

NO_JSON = text("UPDATE grants SET scope = 'no json' WHERE customer_id = 'odd'")


async def begun(control_plane: Running) -> None:
    """Two customers with a grant each; one of the grants can not be read."""
    await publish_text(control_plane.database)
    for name in ("odd", "sound"):
        await make_subscriber(control_plane.database, name, "paid")
        async with rest_of(control_plane) as rest:
            await top_up(rest, name)
    async with control_plane.database.begin() as uow:
        await uow.connection.execute(NO_JSON)


async def top_up(rest: httpx.AsyncClient, customer_id: str) -> None:
    answer = await rest.post("/grants", json={"customer_id": customer_id, "unit": "credit", "amount": "5"})
    assert answer.is_success, answer.text


async def test_the_feed_goes_on_for_everybody_else(database_url: str) -> None:
    """Changes, hints and heartbeats come as ever; the odd one's state comes too, without its balances."""
    async with serving(database_url) as control_plane:
        await begun(control_plane)
        async with following(control_plane, "odd", "sound") as follower, rest_of(control_plane) as rest:
            await follower.until(lambda: "sound" in follower.customers)
            assert follower.customers["odd"].exists
            assert not follower.customers["odd"].hints
            assert follower.customers["sound"].hints[0].granted == 5000

            answer = await rest.post("/catalog/revisions", content=CATALOG.replace("0.5", "0.6"))
            revision = answer.json()["revision"]
            await follower.until(lambda: follower.revision == revision)
            await top_up(rest, "sound")
            await follower.until(lambda: follower.customers["sound"].hints[0].granted == 10_000)

            beats = heartbeats(follower.messages)
            await follower.until(lambda: heartbeats(follower.messages) >= beats + 2)
            assert control_plane.database.kept(Faults).counted["hints"] > 0
        async with httpx.AsyncClient(base_url=f"http://{control_plane.http_address}") as plain:
            assert 'purser_set_apart_total{doing="hints"}' in (await plain.get("/metrics")).text


async def test_rounds_of_hints_tell_how_the_others_stand(database_url: str) -> None:
    """A balance of the odd one and one of another change at once: the other's hint arrives."""
    async with serving(database_url) as control_plane:
        await begun(control_plane)
        async with following(control_plane, "odd", "sound") as follower:
            await follower.until(lambda: "sound" in follower.customers)
            async with control_plane.database.begin() as uow:
                grown = text("UPDATE balances SET overage = overage + 7, changed_at = :now")
                await uow.connection.execute(grown, {"now": int(uow.now.timestamp() * 1_000_000)})
            await follower.until(
                lambda: any(one.WhichOneof("message") == "hints" for one in follower.messages)
            )
            hinted = [hint for one in follower.messages for hint in one.hints.hints]
            assert {hint.ref.customer_id for hint in hinted} == {"sound"}


def heartbeats(messages: Sequence[feed_pb2.FollowResponse]) -> int:
    return sum(one.WhichOneof("message") == "heartbeat" for one in messages)
