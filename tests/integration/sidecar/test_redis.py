"""The fleet's second tier in a real Redis."""

import time
from datetime import UTC, datetime, timedelta

import pytest
import redis

from purser.sync.v1 import feed_pb2 as feed
from sidecar.view.redis import CIRCUIT_SECONDS, RedisTier, connect
from sidecar.view.snapshot import StoredView
from tests.unit.sidecar.view.states import catalog, customer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def stored(
    revision: int, *, suspended: bool = False, generation: int = 1, as_of: datetime | None = NOW
) -> StoredView:
    """A view with one customer and one subject."""
    return StoredView(
        generation=generation,
        revision=revision,
        as_of=as_of,
        catalogs=(catalog(),),
        customers=(customer(suspended=suspended),),
        subjects=(feed.SubjectState(subject_id="ann", customer_id="acme"),),
    )


def test_what_one_sidecar_stores_another_finds(redis_url: str) -> None:
    """Customers, subjects and catalogs, each with generation and revision."""
    RedisTier(connect(redis_url), prefix="fleet", monotonic=time.monotonic).store(stored(7))
    tier = RedisTier(connect(redis_url), prefix="fleet", monotonic=time.monotonic)
    found = tier.customer("acme")
    assert found is not None
    assert (found.generation, found.revision, found.as_of) == (1, 7, NOW)
    assert found.state == customer()
    subject = tier.subject("ann")
    assert subject is not None
    assert subject.state.customer_id == "acme"
    catalogs = tier.catalogs()
    assert catalogs is not None
    assert (catalogs.revision, catalogs.as_of, catalogs.catalogs) == (7, NOW, (catalog(),))
    assert RedisTier(connect(redis_url), prefix="other", monotonic=time.monotonic).customer("acme") is None


def test_an_older_state_never_replaces_a_newer_one(redis_url: str) -> None:
    """Within a generation the higher revision stays; another generation starts anew."""
    tier = RedisTier(connect(redis_url), prefix="fleet", monotonic=time.monotonic)
    tier.store(stored(7))
    tier.store(stored(6, suspended=True))
    tier.store(stored(7, suspended=True, as_of=NOW - timedelta(minutes=1)))
    found = tier.customer("acme")
    assert found is not None
    assert (found.revision, found.as_of, found.state) == (7, NOW, customer())
    tier.store(stored(7, as_of=NOW + timedelta(minutes=1)))
    found = tier.customer("acme")
    assert found is not None
    assert found.as_of == NOW + timedelta(minutes=1)
    tier.store(stored(2, generation=2))
    found = tier.customer("acme")
    assert found is not None
    assert (found.generation, found.revision) == (2, 2)


def test_half_a_state_is_none(redis_url: str) -> None:
    """Whatever is missing, or is no number, looks like nothing there."""
    now = [100.0]
    tier = RedisTier(connect(redis_url), prefix="fleet", monotonic=lambda: now[0])
    tier.store(stored(7))
    client = connect(redis_url)
    for kind, read in (("customer:acme", lambda: tier.customer("acme")), ("catalog:1", tier.catalogs)):
        for field in ("generation", "revision", "as_of", "state"):
            was = client.hget(f"fleet:{kind}", field)
            client.hdel(f"fleet:{kind}", field)
            assert read() is None
            client.hset(f"fleet:{kind}", field, b"\xff garbage")
            assert read() is None
            client.hset(f"fleet:{kind}", field, was)
            now[0] += CIRCUIT_SECONDS
        assert read() is not None


def test_without_redis_nothing_is_there_and_nobody_waits() -> None:
    """A Redis that is away looks empty, and is left alone for a while."""
    now = [100.0]
    tier = RedisTier(connect("redis://127.0.0.1:9/0"), prefix="fleet", monotonic=lambda: now[0])
    assert tier.customer("acme") is None
    assert tier._open_until == 100.0 + CIRCUIT_SECONDS
    tier.store(stored(1))
    now[0] += CIRCUIT_SECONDS
    assert tier.catalogs() is None
    assert tier._open_until == now[0] + CIRCUIT_SECONDS


@pytest.mark.parametrize(
    ("field", "value"), [("state", b""), ("revision", b"99"), ("as_of", b"9" * 30), ("generation", b"x")]
)
def test_what_was_changed_in_redis_is_nothing(redis_url: str, field: str, value: bytes) -> None:
    """Whatever is not as a sidecar stored it is not decided on: it looks like nothing there."""
    with redis.Redis.from_url(redis_url) as client:
        tier = RedisTier(client, prefix="fleet", monotonic=time.monotonic)
        tier.store(stored(7))
        client.hset("fleet:customer:acme", field, value)
        assert tier.customer("acme") is None
        assert tier.subject("ann") is not None
