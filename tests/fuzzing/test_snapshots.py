"""Whatever stands where the view was stored, on disk or in Redis: it is what was written, or it is not used."""

import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from purser.sync.v1 import feed_pb2 as feed
from sidecar.view.memory import View
from sidecar.view.persisting import Persisting
from sidecar.view.redis import CIRCUIT_SECONDS, RedisTier
from sidecar.view.snapshot import SnapshotFile, StoredView
from tests.fuzzing.calm import within_process_memory, without_traceback
from tests.fuzzing.effort import cases
from tests.fuzzing.wire import Damage, damages, mangled
from tests.unit.sidecar.view.states import catalog, customer, view

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIGEST_BYTES = 32
GROWTH_MIB = 100
"""So much more memory may hundreds of small views ever need, whatever they say of themselves."""


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """Whatever is stored there, memory is bounded."""
    with within_process_memory(mib=GROWTH_MIB):
        yield


def write(path: Path, *, revision: int, suspended: bool) -> bytes:
    """A snapshot of one customer; its bytes."""
    subject = feed.SubjectState(subject_id="ann", customer_id="acme")
    SnapshotFile(path).write(
        generation=1,
        revision=revision,
        as_of=NOW,
        states=[catalog(), customer(suspended=suspended, hint=3), subject],
    )
    return path.read_bytes()


@pytest.fixture(scope="module")
def written() -> Iterator[tuple[bytes, bytes]]:
    """What two processes wrote: an old view in which all is well, and a new one in which the customer is suspended."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "view.snapshot")
        yield write(path, revision=4, suspended=False), write(path, revision=5, suspended=True)


def loaded(content: bytes) -> tuple[View, bool, int]:
    """A view that started from these bytes, whether it did, and how many files were set aside."""
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "view.snapshot"
        path.write_bytes(content)
        held = view()
        persisting = Persisting(
            view=held, file=SnapshotFile(path), second_tier=None, wall_now=lambda: NOW, monotonic=lambda: 1.0
        )
        was_loaded = persisting.load()
        return held, was_loaded, len(list(folder.glob("*.unusable-*")))
    finally:
        shutil.rmtree(folder)


@cases(400)
@given(st.lists(damages, min_size=1, max_size=3), st.booleans())
def test_a_damaged_snapshot_is_not_used(
    written: tuple[bytes, bytes], all_damage: list[Damage], is_old: bool
) -> None:
    """Flipped, cut, spliced with an older one: it is set aside, or it is one of those that were written, whole."""
    old, new = written
    content = mangled(old if is_old else new, all_damage, new if is_old else old)
    with without_traceback():
        held, was_loaded, aside = loaded(content)
    if content in written:
        assert was_loaded
        entry = held.customer("acme")
        assert entry is not None
        assert entry.state().suspended == (content == new)
    else:
        assert not was_loaded
        assert held.customer("acme") is None
        assert aside == 1


@cases(400)
@given(st.lists(damages, min_size=1, max_size=3))
def test_a_snapshot_that_makes_no_sense_is_set_aside(
    written: tuple[bytes, bytes], all_damage: list[Damage]
) -> None:
    """Its checksum holds, as that of another version's file does; what can not be understood stops no start."""
    body = mangled(written[1][:-DIGEST_BYTES], all_damage, written[0][:-DIGEST_BYTES])
    with without_traceback():
        held, was_loaded, aside = loaded(body + hashlib.sha256(body).digest())
    assert was_loaded or (held.customer("acme") is None and aside == 1)


def stored(*, suspended: bool) -> StoredView:
    """A view with one of each."""
    subject = feed.SubjectState(subject_id="ann", customer_id="acme")
    return StoredView(1, 7, NOW, (catalog(),), (customer(suspended=suspended),), (subject,))


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """As sidecars have one, but patient: a slow machine is no fault here."""
    with redis.Redis.from_url(redis_url) as patient:
        yield patient


@cases(150)
@given(
    st.sampled_from(["customer:acme", "subject:ann", "catalog:1"]),
    st.sampled_from(["generation", "revision", "as_of", "state", "checksum"]),
    st.lists(damages, min_size=1, max_size=2),
    st.one_of(
        st.none(), st.binary(max_size=30), st.sampled_from([b"9" * 30, b"-1", b"1e9", b"", b" 7", b"x"])
    ),
)
def test_a_damaged_state_in_redis_is_not_used(
    client: redis.Redis, key: str, field: str, all_damage: list[Damage], instead: bytes | None
) -> None:
    """What comes out of Redis is what a sidecar put there, or nothing; nobody's call fails for it."""
    tier = RedisTier(client, prefix="fleet", monotonic=lambda: 0.0)
    tier.store(stored(suspended=False))
    name = f"fleet:{key}"
    before = client.hget(name, field)
    assert isinstance(before, bytes)
    after = mangled(before, all_damage, b"7") if instead is None else instead
    client.hset(name, field, after)
    with without_traceback():
        found = (tier.customer("acme"), tier.subject("ann"), tier.catalogs())
    is_same = before == after
    as_written = (customer(), feed.SubjectState(subject_id="ann", customer_id="acme"), (catalog(),))
    for kind, one, written in zip(("customer", "subject", "catalog"), found, as_written, strict=True):
        if kind in key and not is_same:
            assert one is None
        elif one is not None:
            state = one.catalogs if isinstance(one, StoredView) else one.state
            assert (one.generation, one.revision, one.as_of, state) == (1, 7, NOW, written)
    client.flushdb()


@pytest.mark.parametrize("key", ["customer:acme", "catalog:1", "catalogs:revisions"])
def test_another_type_in_redis_is_nothing(client: redis.Redis, key: str) -> None:
    """A text, a list or a set where a hash is looked for: nothing is found, and storing fails nobody."""
    client.set(f"fleet:{key}", "mine")
    tier = RedisTier(client, prefix="fleet", monotonic=itertools.count(0, CIRCUIT_SECONDS).__next__)
    with without_traceback():
        tier.store(stored(suspended=False))
        found = {"customer:acme": tier.customer("acme"), "catalog:1": tier.catalogs()}
    assert found.get(key) is None
    assert client.type(f"fleet:{key}") == b"string"
