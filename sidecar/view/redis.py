"""The fleet's second tier in Redis, which may be a cluster: any failure costs speed only, and is over quickly."""

import importlib.resources
from collections.abc import Callable
from typing import Any, Final, TypeVar

import redis
import structlog
from google.protobuf.message import DecodeError, Message
from redis.exceptions import RedisError

from purser.sync.v1 import feed_pb2 as feed
from sidecar.view.port import StoredState
from sidecar.view.snapshot import StoredView

_log = structlog.stdlib.get_logger(__name__)


TIMEOUT_SECONDS: Final = 0.05
CIRCUIT_SECONDS: Final = 5.0
KEEP_SECONDS: Final = 7 * 86_400

Result = TypeVar("Result")
State = TypeVar("State", feed.CustomerState, feed.SubjectState, feed.CatalogRevision)


def connect(url: str) -> "redis.Redis":
    """A client that gives up quickly. Nothing is connected yet."""
    return redis.Redis.from_url(
        url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS, retry_on_timeout=False
    )


class RedisTier:
    """`SecondTier` in Redis. One key per customer, per subject and per catalog revision, each with
    generation and revision.
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
        except (RedisError, OSError, DecodeError, ValueError) as error:
            self._open_until = self._monotonic() + CIRCUIT_SECONDS
            _log.warning("Redis is left alone for a while", cause=str(error), seconds=CIRCUIT_SECONDS)
            return otherwise

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{name}"

    def _stored(
        self, kind: str, name: str, message: type[feed.CustomerState] | type[feed.SubjectState]
    ) -> StoredState | None:
        found: Any = self._client.hmget(self._key(kind, name), ["generation", "revision", "state"])
        generation, revision, state = found
        if state is None:
            return None
        return StoredState(int(generation), int(revision), message.FromString(state))

    def _read_catalogs(self) -> StoredView | None:
        found: Any = self._client.smembers(self._key("catalogs", "revisions"))
        states: list[tuple[int, int, feed.CatalogRevision]] = []
        for name in found:
            raw: Any = self._client.hmget(
                self._key("catalog", name.decode()), ["generation", "revision", "state"]
            )
            if raw[2] is not None:
                states.append((int(raw[0]), int(raw[1]), feed.CatalogRevision.FromString(raw[2])))
        if not states:
            return None
        generation = max(states, key=lambda item: item[1])[0]
        catalogs = tuple(state for of, _, state in states if of == generation)
        revision = max(at for of, at, _ in states if of == generation)
        return StoredView(generation, revision, None, catalogs, (), ())

    def _write(self, stored: StoredView) -> None:
        def put(kind: str, name: str, state: Message) -> None:
            args: list[int | bytes] = [
                stored.generation,
                stored.revision,
                state.SerializeToString(),
                KEEP_SECONDS,
            ]
            self._put(keys=[self._key(kind, name)], args=args)

        for catalog in stored.catalogs:
            put("catalog", str(catalog.revision), catalog)
            self._client.sadd(self._key("catalogs", "revisions"), str(catalog.revision))
        for customer in stored.customers:
            put("customer", customer.customer_id, customer)
        for subject in stored.subjects:
            put("subject", subject.subject_id, subject)
