"""REST of the spine over a real port, on both databases."""

import asyncio
import json
import re
from typing import Any

import httpx

from tests.integration.control_plane.rest.asking import CALL, ok, problem
from tests.integration.control_plane.serving import rest_of, serving
from tests.integration.control_plane.setting import CATALOG


async def revision_of(rest: httpx.AsyncClient) -> int:
    """The newest revision, from a change that changes nothing."""
    return int((await ok(rest.post("/customers/acme/resume")))["revision"])


async def test_every_change_carries_its_revision(rest: httpx.AsyncClient) -> None:
    """One more for each change; the same one when there was nothing to change."""
    assert await revision_of(rest) == 4
    assert (await ok(rest.post("/customers/acme/suspend")))["revision"] == 5
    assert (await ok(rest.post("/customers/acme/suspend")))["revision"] == 5
    assert (await ok(rest.get("/customers/acme")))["suspended"]
    assert (await ok(rest.post("/customers/acme/resume")))["revision"] == 6


async def test_a_bad_catalog_changes_nothing(rest: httpx.AsyncClient) -> None:
    """Every problem is named with line, column and mend; the revision stays."""
    bad = CATALOG.replace("limit: 100,", "limit: -1,").replace("scale: 3}", "scale: many}")
    body = problem(await rest.post("/catalog/revisions?move=all", content=bad), 422)
    assert [error["line"] for error in body["errors"]] == [3, 13]
    assert all(error["column"] and error["mend"] and error["problem"] for error in body["errors"])
    assert (await ok(rest.get("/catalog/revisions/current")))["revision"] == 1
    assert await revision_of(rest) == 4


async def test_catalog_revisions_are_read_back(rest: httpx.AsyncClient) -> None:
    """Listed newest first; each with its text and its canonical document; JSON is taken like YAML."""
    canonical = (await ok(rest.get("/catalog/revisions/1")))["document"]
    again = await ok(rest.post("/catalog/revisions", json=canonical))
    assert again["plan_versions"] == {}
    listed = (await ok(rest.get("/catalog/revisions")))["items"]
    assert [(item["revision"], item["current"]) for item in listed] == [(5, True), (1, False)]
    assert (await ok(rest.get("/catalog/revisions/1")))["source"] == CATALOG
    problem(await rest.get("/catalog/revisions/99"), 404)
    problem(await rest.get("/catalog/revisions/one"), 422)


async def test_a_publish_says_what_becomes_of_subscriptions(rest: httpx.AsyncClient) -> None:
    """How many moved and stayed, on which version of their plan, and which could not move."""
    first = await ok(
        rest.post("/catalog/revisions", content=CATALOG.replace("paid: {ent", "paid: {name: Paid, ent"))
    )
    assert (first["moved"], first["stayed"], first["unmovable"]) == (0, 1, [])
    assert first["staying"] == [{"plan": "paid", "plan_version": 1, "subscriptions": 1}]
    without = "\n".join(line for line in CATALOG.splitlines() if not line.startswith("  paid:"))
    gone = await ok(rest.post("/catalog/revisions?move=all", content=without))
    assert (gone["moved"], gone["stayed"], gone["unmovable"]) == (0, 1, ["sub"])
    last = await ok(rest.post("/catalog/revisions?move=all", content=CATALOG))
    assert (last["moved"], last["stayed"], last["staying"], last["unmovable"]) == (1, 0, [], [])


async def test_an_idempotency_key_does_a_post_once(rest: httpx.AsyncClient) -> None:
    """The same key and body: the same answer and one grant, also when both come at once; another body: 409."""
    body = {"customer_id": "acme", "unit": "credit", "amount": "1"}
    headers = {"Idempotency-Key": "once"}
    answers = await asyncio.gather(*(rest.post("/grants", json=body, headers=headers) for _ in range(5)))
    assert {(answer.status_code, answer.text) for answer in answers} == {(201, answers[0].text)}
    assert len((await ok(rest.get("/grants", params={"customer_id": "acme"})))["items"]) == 2
    problem(await rest.post("/grants", json={**body, "amount": "2"}, headers=headers), 409)
    problem(await rest.post("/customers", json={"id": "x"}, headers=headers), 409)


async def test_a_failed_post_does_not_use_its_key_up(rest: httpx.AsyncClient) -> None:
    """What failed left nothing; the key may be used again."""
    headers = {"Idempotency-Key": "again"}
    body = {"id": "sub_new", "customer_id": "new", "plan": "free"}
    problem(await rest.post("/subscriptions", json=body, headers=headers), 404)
    await ok(rest.post("/customers", json={"id": "new"}))
    assert (await rest.post("/subscriptions", json=body, headers=headers)).status_code == 201


async def test_if_match_lets_only_one_of_two_editors_in(rest: httpx.AsyncClient) -> None:
    """An ETag that is no longer the version is 412, and nothing changes."""
    tag = (await rest.get("/customers/acme")).headers["etag"]
    headers = {"If-Match": tag}
    first = await rest.patch("/customers/acme", json={"name": "One"}, headers=headers)
    assert first.headers["etag"] != tag
    problem(await rest.patch("/customers/acme", json={"name": "Two"}, headers=headers), 412)
    assert (await ok(rest.get("/customers/acme")))["name"] == "One"
    tag = (await rest.get("/subscriptions/sub")).headers["etag"]
    await ok(rest.patch("/subscriptions/sub", json={"state": "paused"}, headers={"If-Match": tag}))
    problem(await rest.patch("/subscriptions/sub", json={"state": "active"}, headers={"If-Match": tag}), 412)


WRONG_INPUTS: list[tuple[str, Any, int, str | None]] = [
    ("/customers", {"id": ""}, 422, "id"),
    ("/customers", {"id": "x" * 256}, 422, "id"),
    ("/customers", {"id": "a\u0000b"}, 422, "id"),
    ("/customers", {"id": "x", "colour": "red"}, 422, "colour"),
    ("/customers", {"id": "x", "parent_id": "none"}, 422, "parent_id"),
    ("/customers", {"id": "acme"}, 409, None),
    ("/subscriptions", {"customer_id": "acme", "plan": "gold"}, 422, "plan"),
    ("/subscriptions", {"customer_id": "acme", "plan": "pro", "add_ons": ["nix"]}, 422, "add_ons[0]"),
    (
        "/subscriptions",
        {"customer_id": "acme", "plan": "pro", "on_past_due": "maybe"},
        422,
        "on_past_due",
    ),
    (
        "/subscriptions",
        {"customer_id": "acme", "plan": "pro", "starts_at": "2030-01-01T00:00:00"},
        422,
        "starts_at",
    ),
    ("/subscriptions/sub/payment-status", {"status": "late"}, 422, "status"),
    ("/grants", {"customer_id": "acme", "unit": "credit", "amount": 1.5}, 422, "amount"),
    ("/grants", {"customer_id": "acme", "unit": "credit", "amount": "0.0001"}, 422, "amount"),
    ("/grants", {"customer_id": "acme", "unit": "credit", "amount": "-1"}, 422, "amount"),
    ("/grants", {"customer_id": "acme", "unit": "credit", "amount": "NaN"}, 422, "amount"),
    ("/grants", {"customer_id": "acme", "unit": "credit", "amount": "9" * 40}, 422, None),
    ("/grants", {"customer_id": "acme", "unit": "gold", "amount": "1"}, 422, "unit"),
    ("/grants", {"customer_id": "nobody", "unit": "credit", "amount": "1"}, 404, None),
    ("/events", {**CALL, "properties": {"size": -1}}, 422, "properties.size"),
    ("/events", {**CALL, "properties": {"size": [1]}}, 422, "properties.size"),
    ("/events", {**CALL, "event_name": "other"}, 422, "event_name"),
    ("/events", {**CALL, "timestamp": "2001-01-01T00:00:00Z"}, 422, "occurred_at"),
    ("/events", {**CALL, "timestamp": "yesterday"}, 422, "timestamp"),
    ("/events", {"event_name": "call", "customer_id": "acme"}, 422, "idempotency_key"),
    ("/events", {"event_name": "call", "subject_id": "ann", "idempotency_key": "b"}, 422, "subject_id"),
    ("/events", [CALL, {**CALL, "idempotency_key": ""}], 422, "[1].idempotency_key"),
    ("/events", {"specversion": "1.0", "id": "1", "source": "s", "subject": "acme"}, 422, "type"),
    ("/events", {**CALL, "gauge_change": ["ADD"]}, 422, "gauge_change"),
]

LAST, FIRST = "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"
"""Instants whose year in UTC is none that a calendar here has."""

HALF = "\ud83d"
"""Half of a surrogate pair: JSON can write it, UTF-8 can not."""

NO_TEXTS: list[tuple[str, Any, str]] = [
    (path, {**body, field: bad}, field)
    for bad in (HALF, "a\0b")
    for path, body, fields in (
        ("/customers", {}, ("id", "name", "parent_id")),
        ("/customers/acme/subjects", {}, ("id",)),
        ("/subscriptions", {"customer_id": "acme", "plan": "paid"}, ("id", "customer_id", "plan")),
        ("/subscriptions", {"customer_id": "acme", "plan": "paid"}, ("on_past_due",)),
        ("/grants", {"customer_id": "acme", "unit": "credit", "amount": "1"}, ("id", "unit", "source")),
        ("/events", CALL, ("idempotency_key", "customer_id", "subject_id", "app_id", "event_name")),
        ("/events", CALL, ("correlation_id", "holder_id", "gauge_feature", "timestamp")),
    )
    for field in fields
] + [
    ("/customers", {"external_ids": {"crm": HALF}}, "external_ids.crm"),
    ("/customers", {"external_ids": {"crm": "a\0"}}, "external_ids.crm"),
    ("/customers", {HALF: "x"}, "body"),
    ("/events", {**CALL, HALF: "x"}, r"\ud83d"),
    ("/events", {**CALL, "properties": {HALF: 1}}, r"properties.\ud83d"),
    ("/events", {**CALL, "properties": {"model": HALF}}, "properties.model"),
    ("/events", {**CALL, "measures": {"a\0": "1"}}, "measures.a\0"),
    ("/events", {**CALL, "attributes": {"model": "a\0"}}, "attributes.model"),
    ("/subscriptions", {"customer_id": "acme", "plan": "paid", "starts_at": LAST}, "starts_at"),
    ("/subscriptions", {"customer_id": "acme", "plan": "paid", "ends_at": FIRST}, "ends_at"),
    ("/grants", {"customer_id": "acme", "unit": "credit", "amount": "1", "expires_at": LAST}, "expires_at"),
    ("/events", {**CALL, "timestamp": LAST}, "timestamp"),
]


async def test_wrong_input_names_the_field_and_changes_nothing(rest: httpx.AsyncClient) -> None:
    """Each is a problem that names the field at fault; no revision is taken, no event booked."""
    for path, body, status, field in WRONG_INPUTS:
        found = problem(await rest.post(path, json=body), status)
        if field is not None:
            assert [error["field"] for error in found["errors"]] == [field], (path, body)
    assert await revision_of(rest) == 4
    assert (await ok(rest.get("/events")))["items"] == []


async def test_a_body_that_is_not_said_to_be_json_is_told_how(rest: httpx.AsyncClient) -> None:
    """What `curl -d` sends without a header: the answer says which header is missing."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    found = problem(await rest.post("/customers", content='{"id": "x"}', headers=headers), 422)
    (error,) = found["errors"]
    assert error == {"field": "body", "problem": "a JSON object, sent with Content-Type: application/json"}


BODIES: list[tuple[str, str, dict[str, str]]] = [
    (
        "/customers",
        '{"id": "x", "colour": "red"}',
        {"colour": "is no field here; known are id, name, parent_id, external_ids"},
    ),
    ("/subscriptions", '{"customer_id": "acme"}', {"plan": "is required"}),
    ("/customers", '{"id":', {"body": "is not JSON (at character 6: Expecting value)"}),
    ("/events", '{"id":', {"body": "is not JSON (at character 6: Expecting value)"}),
    (
        "/grants",
        '{"customer_id": 1, "unit": "credit", "amount": "1", "priority": "high", "scope": {}, "expires_at": "soon"}',
        {
            "customer_id": "is no text",
            "priority": "is no whole number",
            "scope": "is no list",
            "expires_at": "is no instant such as 2030-01-01T12:00:00Z",
        },
    ),
    (
        "/subscriptions",
        '{"customer_id": "acme", "plan": "paid", "state": "on", "ends_at": "2030-01-01T00:00:00"}',
        {
            "state": "is none of 'trialing', 'active', 'past_due', 'paused', 'suspended' or 'canceled'",
            "ends_at": "has no offset; write an instant such as 2030-01-01T12:00:00Z",
        },
    ),
    (
        "/subscriptions",
        '{"customer_id": "acme", "plan": "payd", "add_ons": ["nix"]}',
        {
            "plan": "there is no plan 'payd' in catalog revision 1; did you mean 'paid'?",
            "add_ons[0]": "there is no add-on 'nix' in catalog revision 1; known are extra",
        },
    ),
    (
        "/grants",
        '{"customer_id": "acme", "unit": "credits", "amount": "1"}',
        {"unit": "the catalog has no unit 'credits'; did you mean 'credit'?"},
    ),
    (
        "/grants",
        '{"customer_id": "acme", "unit": "credit", "amount": "1", "scope": ["apis"]}',
        {"scope[0]": "the catalog has no feature 'apis'; did you mean 'api'?"},
    ),
]


async def test_what_is_wrong_with_a_body_is_said_in_our_words(rest: httpx.AsyncClient) -> None:
    """Each field with what is wrong and, where there is more than one way, the mend."""
    for path, body, says in BODIES:
        answer = await rest.post(path, content=body, headers={"content-type": "application/json"})
        errors = problem(answer, 422)["errors"]
        assert {error["field"]: error["problem"] for error in errors} == says, (path, body)


async def test_an_address_that_is_none(rest: httpx.AsyncClient) -> None:
    """No such path: where all are listed. A path that does not take the method: which it takes, whatever its routes."""
    assert problem(await rest.get("/nothing"), 404)["detail"] == "there is no such path; /docs lists all"
    for method, path, takes in (
        ("DELETE", "/customers", "GET, POST"),
        ("PUT", "/customers/acme", "GET, PATCH"),
        ("POST", "/trace/some/thing", "GET"),
    ):
        refused = await rest.request(method, path)
        assert problem(refused, 405)["detail"] == f"this path takes {takes}; /docs lists all"
        assert refused.headers["allow"] == takes


async def test_what_can_not_be_kept_names_its_field(rest: httpx.AsyncClient) -> None:
    """Halves of surrogate pairs, NUL, instants beyond the calendar: problems of the caller, in any text of any body."""
    headers = {"content-type": "application/json"}
    for path, body, field in NO_TEXTS:
        found = problem(await rest.post(path, content=json.dumps(body), headers=headers), 422)
        assert field in [error["field"] for error in found["errors"]], (path, body)
    changed = await rest.patch("/customers/acme", content=json.dumps({"name": "a\0"}), headers=headers)
    assert problem(changed, 422)["errors"][0]["field"] == "name"
    assert await revision_of(rest) == 4
    assert (await ok(rest.get("/events")))["items"] == []


async def test_texts_of_a_catalog(rest: httpx.AsyncClient) -> None:
    """A character that JSON writes as a pair of escapes is one; a half of it, or NUL, is a problem with its line."""
    document = (await ok(rest.get("/catalog/revisions/1")))["document"]
    for bad in (HALF, "\0"):
        document["units"]["credit"]["name"] = bad
        found = problem(await rest.post("/catalog/revisions", content=json.dumps(document)), 422)
        assert [error["field"] for error in found["errors"]] == ["units.credit.name"]
        named = {**document, "units": {**document["units"], bad: {}}}
        problem(await rest.post("/catalog/revisions", content=json.dumps(named)), 422)
    document["units"]["credit"]["name"] = "\U0001f600"
    published = await ok(rest.post("/catalog/revisions", content=json.dumps(document)))
    read = await ok(rest.get(f"/catalog/revisions/{published['revision']}"))
    assert read["document"]["units"]["credit"]["name"] == "\U0001f600"


async def test_pages_neither_repeat_nor_skip(rest: httpx.AsyncClient) -> None:
    """Lists are walked by their cursor, whatever the page's size; a foreign cursor is a problem."""
    for number in range(7):
        await ok(rest.post("/events", json={**CALL, "idempotency_key": f"k{number}"}))
        await ok(rest.post("/customers", json={"id": f"c{number}"}))
    for path, name in (
        ("/events", "idempotency_key"),
        ("/customers", "id"),
        ("/customers/acme/ledger", "id"),
    ):
        whole = [item[name] for item in (await ok(rest.get(path)))["items"]]
        walked: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            found = await ok(rest.get(path, params={"limit": 3, **({"cursor": cursor} if cursor else {})}))
            walked += [item[name] for item in found["items"]]
            cursor = found["next_cursor"]
        assert walked == whole
        assert len(set(walked)) == len(walked) >= 7
    assert problem(await rest.get("/events", params={"cursor": "x"}), 422)["errors"][0]["field"] == "cursor"


async def test_payment_status_and_states(rest: httpx.AsyncClient) -> None:
    """Past due and paid again; a paused one can not become past due; canceled is final."""
    assert (await ok(rest.post("/subscriptions/sub/payment-status", json={"status": "past_due"})))[
        "past_due_since"
    ]
    paid = await ok(rest.post("/subscriptions/sub/payment-status", json={"status": "paid"}))
    assert (paid["state"], paid["past_due_since"]) == ("active", None)
    await ok(rest.patch("/subscriptions/sub", json={"state": "paused"}))
    assert (await ok(rest.get("/customers/acme/entitlements")))["standing"] == "NO_ACTIVE_SUBSCRIPTION"
    problem(await rest.post("/subscriptions/sub/payment-status", json={"status": "past_due"}), 409)
    canceled = await ok(rest.patch("/subscriptions/sub", json={"state": "canceled"}))
    assert canceled["ends_at"] is not None
    problem(await rest.patch("/subscriptions/sub", json={"state": "active"}), 409)


async def test_openapi_documents_the_spine(rest: httpx.AsyncClient) -> None:
    """OpenAPI 3.1 with every path of the spine, and the pages that show it."""
    root = str(rest.base_url).removesuffix("/v1/")
    document = (await rest.get(f"{root}/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert {
        *("/v1/catalog/revisions", "/v1/customers/{customer_id}/suspend", "/v1/subscriptions", "/v1/grants"),
        *("/v1/events", "/v1/sidecars", "/v1/leases", "/v1/dead-letters", "/v1/trace/{id}"),
    } <= document["paths"].keys()
    grant = document["components"]["schemas"]["GrantForm"]["properties"]
    assert grant["customer_id"]["examples"] == ["acme"]
    assert grant["unit"]["examples"] == ["usd"]
    assert grant["scope"]["items"]["examples"] == ["chat"]
    for path in ("/docs", "/livez", "/readyz", "/metrics"):
        assert (await rest.get(f"{root}{path}")).status_code == 200
    problem(await rest.get("/nothing"), 404)
    problem(await rest.post("/events", content=b"x" * (4 * 1024 * 1024 + 1)), 413)


async def test_the_pages_of_the_docs_need_no_internet(rest: httpx.AsyncClient) -> None:
    """Whatever /docs has the browser load is served here."""
    root = str(rest.base_url).removesuffix("/v1/")
    page = (await rest.get(f"{root}/docs")).text
    loaded = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page)
    assert len(loaded) >= 4, "a script, a style, an icon, the document"
    assert [address for address in loaded if not address.startswith("/")] == []
    for address in loaded:
        assert (await rest.get(f"{root}{address}")).status_code == 200, address
    assert "://" not in page


async def test_a_token_guards_rest(sqlite_url: str, tmp_path: Any) -> None:
    """With a token file nobody gets in without it; health stays open; a rotated token holds soon."""
    file = tmp_path / "token"
    file.write_text("secret\n")
    async with serving(sqlite_url, admin_token_file=file) as control_plane, rest_of(control_plane) as rest:
        problem(await rest.get("/customers"), 401)
        problem(await rest.get("/customers", headers={"Authorization": "Bearer wrong"}), 401)
        assert (await rest.get("/customers", headers={"Authorization": "Bearer secret"})).status_code == 200
        assert (await rest.get(f"http://{control_plane.http_address}/readyz")).status_code == 200
