"""Events over REST: posted, booked, listed, traced, on both databases."""

from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from control_plane.config import settings_from
from control_plane.db.engine import system_now
from control_plane.db.unit_of_work import Database
from control_plane.faults import Faults
from control_plane.feed.poller import Poller
from control_plane.metrics import Metrics
from control_plane.rest.app import create_app
from control_plane.rest.event_results import EventOutcome, EventReason
from control_plane.sweeper import Sweeper
from tests.integration.control_plane.rest.asking import CALL, ok, problem
from tests.integration.control_plane.setting import CATALOG, make_subscriber, publish_text


async def test_posted_events_are_booked_exactly_once(rest: httpx.AsyncClient) -> None:
    """The plain form: accepted, then a duplicate; other content under the key is a conflict. Numbers stay exact."""
    assert (await ok(rest.post("/events", json=CALL)))["status"] == "ACCEPTED"
    assert (await ok(rest.post("/events", json=CALL)))["status"] == "DUPLICATE"
    problem(await rest.post("/events", json={**CALL, "properties": {"size": 4}}), 409)
    text = '{"idempotency_key":"k2","customer_id":"acme","event_name":"call","properties":{"size":0.1e1,"m":"x"}}'
    await ok(rest.post("/events", content=text))
    items = (await ok(rest.get("/events", params={"customer_id": "acme"})))["items"]
    assert [(item["idempotency_key"], item["measures"], item["attributes"]) for item in items] == [
        ("k1", {"size": "3"}, {}),
        ("k2", {"size": "1"}, {"m": "x"}),
    ]
    assert [item["cost"] for item in items] == [
        {"unit": "credit", "value": "1.5"},
        {"unit": "credit", "value": "0.5"},
    ]
    assert not items[0]["decided"]
    balances = (await ok(rest.get("/customers/acme/balances")))["items"]
    wallet = next(item for item in balances if item["balance"] == "wallet:credit")
    assert (wallet["granted"], wallet["available"], wallet["spent"]) == ("20", "18", "2")


async def test_a_faulty_event_of_several_is_rejected_alone(rest: httpx.AsyncClient) -> None:
    """Each has its result, in order; what is rejected leaves neither an event nor a dead letter, and may come again."""
    await ok(rest.post("/events", json=CALL))
    several: list[tuple[dict[str, Any], str, str | None]] = [
        ({"idempotency_key": "old", "timestamp": "2001-01-01T00:00:00Z"}, "REJECTED", "TOO_OLD"),
        ({"idempotency_key": "a"}, "ACCEPTED", None),
        ({"idempotency_key": "ahead", "timestamp": "2999-01-01T00:00:00Z"}, "REJECTED", "IN_THE_FUTURE"),
        ({"idempotency_key": "k1"}, "DUPLICATE", None),
        ({"idempotency_key": "name", "event_name": "other"}, "REJECTED", "UNKNOWN_EVENT"),
        ({"idempotency_key": "k1", "properties": {"size": 4}}, "REJECTED", "KEY_CONFLICT"),
        ({"idempotency_key": "ann", "customer_id": "", "subject_id": "ann"}, "REJECTED", "SUBJECT_NOT_FOUND"),
        ({"idempotency_key": "a", "properties": {"size": 9}}, "REJECTED", "KEY_CONFLICT"),
        ({"idempotency_key": "vast", "properties": {"size": int("9" * 30)}}, "REJECTED", "UNBOOKABLE"),
        ({"idempotency_key": "b"}, "ACCEPTED", None),
        ({"idempotency_key": "late", "customer_id": "late"}, "ACCEPTED", "UNKNOWN_CUSTOMER"),
    ]
    answer = await ok(rest.post("/events", json=[{**CALL, **one} for one, _, _ in several]))
    found = [(one["idempotency_key"], one["status"], one["reason"]) for one in answer["results"]]
    assert found == [(one["idempotency_key"], status, reason) for one, status, reason in several]
    assert {one["idempotency_key"] for one in (await ok(rest.get("/events")))["items"]} == {"k1", "a", "b"}
    assert [one["customer_id"] for one in (await ok(rest.get("/dead-letters")))["items"]] == ["late"]
    again = await ok(rest.post("/events", json=[{**CALL, "idempotency_key": "name"}]))
    assert again["results"][0]["status"] == "ACCEPTED"


async def test_numbers_that_fit_no_books_are_the_callers_to_mend(rest: httpx.AsyncClient) -> None:
    """An event by itself that can not be booked is a problem which says why; it leaves no dead letter."""
    found = problem(await rest.post("/events", json={**CALL, "properties": {"size": int("9" * 30)}}), 422)
    assert "63 bits" in found["errors"][0]["problem"]
    assert (await ok(rest.get("/dead-letters")))["items"] == []
    assert (await ok(rest.post("/events", json=CALL)))["status"] == "ACCEPTED"


async def test_results_are_documented(rest: httpx.AsyncClient) -> None:
    """OpenAPI lists every status and every reason of a result."""
    root = str(rest.base_url).removesuffix("/v1/")
    schemas = (await rest.get(f"{root}/openapi.json")).json()["components"]["schemas"]
    assert schemas["EventOutcome"]["enum"] == list(EventOutcome)
    assert schemas["EventReason"]["enum"] == list(EventReason)
    said = schemas["EventResult"]["properties"]
    assert all(f"`{word}`" in said["status"]["description"] for word in EventOutcome)
    assert all(f"`{word}`" in said["reason"]["description"] for word in EventReason)


async def test_facts_without_a_price_are_found_and_counted(database: Database) -> None:
    """They are booked as `unrated`, listed by that status, and counted in a metric by the sweeper."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, Poller(database), Faults())
    app = create_app(database, ready=lambda: None, registry=registry)
    await publish_text(
        database,
        CATALOG.replace("unit: credit, prices: [", "unit: credit, by: model, prices: {m: [").replace(
            'price: "0.5"}]}', 'price: "0.5"}]}}'
        ),
    )
    await make_subscriber(database, "acme", "paid")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rest/v1") as rest:
        for model in ("m", "new", "newer"):
            properties = {"size": 1, "model": model}
            await ok(rest.post("/events", json={**CALL, "idempotency_key": model, "properties": properties}))
        unrated = await ok(rest.get("/events?status=unrated&limit=1"))
        more = await ok(rest.get(f"/events?status=unrated&cursor={unrated['next_cursor']}"))
        found = {
            (one["idempotency_key"], one["status"], one["cost"]) for one in unrated["items"] + more["items"]
        }
        assert found == {("new", "unrated", None), ("newer", "unrated", None)}
        booked = (await ok(rest.get("/events?status=booked")))["items"]
        assert [one["idempotency_key"] for one in booked] == ["m"]
    await Sweeper(database, settings_from(), metrics).sweep(clean_up=True)
    assert registry.get_sample_value("purser_unrated_events") == 2


async def test_cloud_events(rest: httpx.AsyncClient) -> None:
    """`id` and `source` are the key, `subject` a customer or a registered subject."""
    await ok(rest.post("/customers/acme/subjects", json={"id": "ann"}))
    event = {"specversion": "1.0", "id": "7", "source": "app", "type": "call", "data": {"size": 2}}
    both = [
        {**event, "subject": "acme"},
        {**event, "id": "8", "subject": "ann", "time": system_now().isoformat()},
    ]
    answer = await ok(rest.post("/events", json=both))
    assert [result["status"] for result in answer["results"]] == ["ACCEPTED", "ACCEPTED"]
    items = (await ok(rest.get("/events")))["items"]
    assert {(item["idempotency_key"], item["customer_id"], item["subject_id"]) for item in items} == {
        ("app#7", "acme", ""),
        ("app#8", "acme", "ann"),
    }


async def test_a_fact_of_an_unknown_customer_is_booked_later(rest: httpx.AsyncClient) -> None:
    """It is a dead letter until the customer is there, and is then replayed into the books."""
    await ok(rest.post("/events", json={**CALL, "customer_id": "late"}))
    (letter,) = (await ok(rest.get("/dead-letters?customer_id=late")))["items"]
    assert (await ok(rest.get("/dead-letters?customer_id=acme")))["items"] == []
    assert letter["reason"] == "UNKNOWN_CUSTOMER"
    assert (await ok(rest.post(f"/dead-letters/{letter['id']}/replay")))["status"] == "DEAD"
    await ok(rest.post("/customers", json={"id": "late"}))
    assert (await ok(rest.post(f"/dead-letters/{letter['id']}/replay")))["status"] == "ACCEPTED"
    assert (await ok(rest.get("/dead-letters")))["items"] == []
    problem(await rest.post(f"/dead-letters/{letter['id']}/replay"), 404)


async def test_a_charge_is_traced_both_ways(rest: httpx.AsyncClient) -> None:
    """From the event's key to its postings, from a transaction to its event, from a grant to who spent it."""
    await ok(rest.post("/events", json=CALL))
    found = await ok(rest.get("/trace/k1"))
    (event,), (transaction,) = found["events"], found["transactions"]
    assert event["charges"][0]["uncovered"] == {"unit": "credit", "value": "1.5"}
    assert {line["account"] for line in transaction["postings"]} == {"grant:g", "usage:api"}
    explained = {"idempotency_key": "k1", "rate_card": "api", "catalog_revision": 1}
    assert all(line.items() >= explained.items() for line in transaction["postings"])
    booked = (await ok(rest.get("/customers/acme/ledger")))["items"]
    assert [one for one in booked if one["cause"] == "usage"] == [transaction]
    (issued,) = [one for one in booked if one["cause"] != "usage"]
    assert {line["idempotency_key"] for line in issued["postings"]} == {None}
    for identity in (transaction["id"], event["uid"], "g"):
        back = await ok(rest.get(f"/trace/{identity}"))
        assert event["uid"] in [one["uid"] for one in back["events"]]
        assert transaction["id"] in [one["id"] for one in back["transactions"]]
    nothing = problem(await rest.get("/trace/nothing"), 404)
    assert "open reservations leave no posting" in nothing["detail"]


async def test_a_reservation_is_traced_to_what_came_after_its_end(rest: httpx.AsyncClient) -> None:
    """Its late settle is a fact under a key of its own."""
    await ok(rest.post("/events", json=CALL | {"idempotency_key": "r1#late"}))
    (event,) = (await ok(rest.get("/trace/r1")))["events"]
    assert event["idempotency_key"] == "r1#late"


async def test_a_trace_of_nothing_is_not_of_all_that_lacks_an_id(rest: httpx.AsyncClient) -> None:
    """Facts have no decision and most events no correlation id."""
    await ok(rest.post("/events", json=CALL))
    problem(await rest.get("/trace/"), 404)


async def test_a_key_may_hold_what_an_address_is_made_of(rest: httpx.AsyncClient) -> None:
    """Keys are the callers' own words: a quoted one is found, and no other."""
    for key in ("a/b?c#d%2F", "a"):
        await ok(rest.post("/events", json=CALL | {"idempotency_key": key}))
    (event,) = (await ok(rest.get("/trace/a%2Fb%3Fc%23d%252F")))["events"]
    assert event["idempotency_key"] == "a/b?c#d%2F"
