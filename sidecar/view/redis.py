"""The fleet's second tier in Redis, which may be a cluster: any failure costs speed only, and is over quickly."""

import hashlib
import importlib.resources
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import redis
import structlog
from google.protobuf.message import DecodeError, Message
from redis.exceptions import RedisError

from purser.sync.v1 import feed_pb2 as feed
from sidecar.runtime.clock import from_microseconds, microseconds
from sidecar.view.port import StoredState
from sidecar.view.snapshot import StoredView

_log = structlog.stdlib.get_logger(__name__)


TIMEOUT_SECONDS: Final = 0.05
CIRCUIT_SECONDS: Final = 5.0
KEEP_SECONDS: Final = 7 * 86_400
WRITES_AT_ONCE: Final = 50
_FIELDS: Final = ("generation", "revision", "as_of", "state", "checksum")

Result = TypeVar("Result")
State = TypeVar("State", feed.CustomerState, feed.SubjectState, feed.CatalogRevision)


def connect(url: str) -> "redis.Redis":
    """A client that gives up quickly. Nothing is connected yet."""
    return redis.Redis.from_url(
        url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS, retry_on_timeout=False
    )


class RedisTier:
    """`SecondTier` in Redis. One key per customer, per subject and per catalog revision, each with generation, revision
    and when that was confirmed.
    """

    def __init__(self, client: "redis.Redis", *, prefix: str, monotonic: Callable[[], float]) -> None:
        """`prefix` keeps fleets apart that share a Redis."""
        self._client = client
        self._prefix = prefix
        self._monotonic = monotonic
        self._open_until = float("-inf")
        script = importlib.resources.files("sidecar.view").joinpath("put_if_newer.lua").read_text()
        self._put = client.register_script(script)

    def customer(self, customer_id: str) -> StoredState | None:
        """As the port says."""
        return self._guarded(lambda: self._stored("customer", customer_id, feed.CustomerState), None)

    def subject(self, subject_id: str) -> StoredState | None:
        """As the port says."""
        return self._guarded(lambda: self._stored("subject", subject_id, feed.SubjectState), None)

    def catalogs(self) -> StoredView | None:
        """As the port says."""
        return self._guarded(self._read_catalogs, None)

    def store(self, stored: StoredView) -> None:
        """As the port says."""
        self._guarded(lambda: self._write(stored), None)

    def _guarded(self, work: Callable[[], Result], otherwise: Result) -> Result:
        # The circuit: after a failure Redis is left alone for a while, so that its absence is not paid for in
        # every call.
        if self._monotonic() < self._open_until:
            return otherwise
        try:
            return work()
        except (RedisError, OSError, DecodeError, ValueError, OverflowError) as error:
            self._open_until = self._monotonic() + CIRCUIT_SECONDS
            _log.warning("Redis is left alone for a while", cause=str(error), seconds=CIRCUIT_SECONDS)
            return otherwise

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{name}"

    def _stored(
        self, kind: str, name: str, message: type[feed.CustomerState] | type[feed.SubjectState]
    ) -> StoredState | None:
        found = self._found(kind, name)
        if found is None:
            return None
        generation, revision, as_of, state = found
        return StoredState(generation, revision, _instant(as_of), message.FromString(state))

    def _found(self, kind: str, name: str) -> tuple[int, int, int, bytes] | None:
        """As somebody stored it; None: it is not there, or not whole, or not what was stored."""
        key = self._key(kind, name)
        found: Any = self._client.hmget(key, _FIELDS)
        if None in found:
            return None
        *said, checksum = found
        if checksum != _checksum(key, *said):
            _log.warning("what Redis has is not what was stored there", key=key)
            return None
        generation, revision, as_of, state = said
        return int(generation), int(revision), int(as_of), state

    def _read_catalogs(self) -> StoredView | None:
        found: Any = self._client.smembers(self._key("catalogs", "revisions"))
        states: list[tuple[int, int, int, feed.CatalogRevision]] = []
        for name in found:
            known = self._found("catalog", name.decode())
            if known is not None:
                generation, revision, as_of, state = known
                states.append((generation, revision, as_of, feed.CatalogRevision.FromString(state)))
        if not states:
            return None
        newest, revision, as_of, _ = max(states, key=lambda item: item[:3])
        catalogs = tuple(state for generation, _, _, state in states if generation == newest)
        return StoredView(newest, revision, _instant(as_of), catalogs, (), ())

    def _write(self, stored: StoredView) -> None:
        as_of = 0 if stored.as_of is None else microseconds(stored.as_of)
        named: list[tuple[str, str, Message]] = [
            *(("catalog", str(one.revision), one) for one in stored.catalogs),
            *(("customer", one.customer_id, one) for one in stored.customers),
            *(("subject", one.subject_id, one) for one in stored.subjects),
        ]
        for first in range(0, len(named), WRITES_AT_ONCE):
            with self._client.pipeline(transaction=False) as pipe:
                for kind, name, state in named[first : first + WRITES_AT_ONCE]:
                    key, body = self._key(kind, name), state.SerializeToString()
                    said = (
                        str(stored.generation).encode(),
                        str(stored.revision).encode(),
                        str(as_of).encode(),
                        body,
                    )
                    args: list[bytes | int] = [*said, KEEP_SECONDS, _checksum(key, *said)]
                    self._put(keys=[key], args=args, client=pipe)
                    if kind == "catalog":
                        pipe.sadd(self._key("catalogs", "revisions"), name)
                pipe.execute()


def _checksum(key: str, *said: bytes) -> bytes:
    """Of what is stored at a key, as Redis keeps it."""
    return hashlib.sha256(b" ".join((key.encode(), *said))).digest()


def _instant(micros: int) -> datetime | None:
    return from_microseconds(micros) if micros else None
