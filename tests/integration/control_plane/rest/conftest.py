"""A control plane that serves REST, with a customer."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.integration.control_plane.rest.asking import ok
from tests.integration.control_plane.serving import rest_of, serving
from tests.integration.control_plane.setting import CATALOG


@pytest.fixture
async def rest(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A control plane with the catalog, and the customer acme on the plan `paid` with 20 credits."""
    async with serving(database_url) as control_plane, rest_of(control_plane) as client:
        await ok(client.post("/catalog/revisions", content=CATALOG))
        await ok(client.post("/customers", json={"id": "acme", "name": "Acme"}))
        await ok(client.post("/subscriptions", json={"id": "sub", "customer_id": "acme", "plan": "paid"}))
        await ok(
            client.post("/grants", json={"id": "g", "customer_id": "acme", "unit": "credit", "amount": "20"})
        )
        yield client
