"""The fast path of checks: an answer that was compiled for the very same bytes, joined to the fields that change.

Serialized protobuf messages merge when they are concatenated. So what is kept is the encoded decision without
its id and its freshness, and every answer is that, a new id, and the freshness of this moment. A kept answer is given
only while its basis holds (`deciding/grounds.py`); everything else goes the slow way, which is the same decision.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from purser.v1 import entitlement_service_pb2 as api
from sidecar.deciding.errors import Malformed
from sidecar.deciding.grounds import Basis
from sidecar.deciding.kept import KEPT_SECONDS, Kept
from sidecar.engine.decision import ViewSource
from sidecar.rpc import encoding, validate
from sidecar.rpc.lately import Lately
from sidecar.rpc.service import deadline_of, framed, question
from sidecar.runtime.clock import Clock
from sidecar.runtime.fields import moment
from sidecar.view.pulse import Pulse

Behavior = Callable[[bytes, grpc.ServicerContext], Any]

ANSWERS_MAX: Final = 20_000
REQUEST_MAX_BYTES: Final = 2_048
FRESHNESS_SECONDS: Final = 0.01
"""The freshness of an answer is encoded anew so often: its age is right to ten milliseconds."""
INSTANT_SECONDS: Final = 0.001
"""And the instant at which something is decided."""

_ITEM: Final = 0x0A
_HASH_MASK: Final = 2**64 - 1
_ID_HEAD: Final = b"\x0a\x15d"
"""Field 1, 21 bytes: `d` and 20 hexadecimal digits."""
_SUFFIXES: Final = tuple(b"%05x" % number for number in range(validate.BATCH_MAX_ITEMS))


class Answer(NamedTuple):
    """A kept answer: the decision without what changes, and what it rests on."""

    body: bytes
    basis: Basis

    def as_response(self, decision_id: bytes, freshness: bytes) -> bytes:
        """As field 1 of a response, with these fields: encoded, as they are in a decision."""
        body = self.body
        length = len(body) + len(decision_id) + len(freshness)
        if 0x80 <= length < 0x4000:
            # As most are, and in one go.
            return b"\x0a%c%c%b%b%b" % (length & 0x7F | 0x80, length >> 7, body, decision_id, freshness)
        return framed(body + decision_id + freshness)


class LatestFreshness:
    """The freshness of this moment, encoded, and whether the view is LIVE. Thread-safe, without a lock."""

    def __init__(self, pulse: Pulse) -> None:
        """Nothing is encoded yet."""
        self._pulse = pulse
        self._latest: tuple[float, bytes, bool] = (float("-inf"), b"", False)

    def __call__(self, now: float) -> tuple[bytes, bool]:
        """`now`: monotonic seconds."""
        at, encoded, is_live = self._latest
        if now - at >= FRESHNESS_SECONDS or not self._pulse.is_connected:
            freshness = self._pulse.freshness(now)
            encoded = encoding.freshness_bytes(freshness)
            is_live = freshness.source is ViewSource.LIVE
            self._latest = (now, encoded, is_live)
        return encoded, is_live


class LatestInstant:
    """The control plane's time, and encoded as a Timestamp: looked up again after a millisecond, as freshness is."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        """Nothing is looked up yet."""
        self._now = now
        self._latest: tuple[float, datetime, bytes] | None = None

    def __call__(self, now: float) -> tuple[datetime, bytes]:
        """`now`: monotonic seconds."""
        latest = self._latest
        if latest is None or now - latest[0] >= INSTANT_SECONDS:
            at = self._now()
            latest = self._latest = (now, at, moment(at))
        return latest[1], latest[2]


class FastChecks:
    """Wraps the behaviors of CheckAccess and BatchCheckAccess. Thread-safe."""

    def __init__(
        self, kept: Kept, *, freshness: LatestFreshness, clock: Clock, new_bits: Callable[[], int]
    ) -> None:
        """`new_bits()`: 60 random bits, for decision ids."""
        self._kept = kept
        self._grounds = kept.grounds
        self._freshness = freshness
        self._monotonic = clock.monotonic
        self._clock = clock
        self._new_bits = new_bits
        self._answers: Lately[Answer] = Lately(bound=ANSWERS_MAX, seconds=KEPT_SECONDS)
        self._asked: Lately[bool] = Lately(bound=ANSWERS_MAX, seconds=KEPT_SECONDS)
        """What was asked once, by its hash: most of it never comes again, and is not worth an answer that is kept."""

    def check(self, slow: Behavior) -> Behavior:
        """CheckAccess. `slow` answers what is malformed."""

        def behavior(raw: bytes, context: grpc.ServicerContext) -> Any:
            now = self._monotonic()
            freshness, is_live = self._freshness(now)
            answer = self._answers.get(raw)
            if answer is not None and is_live and self._grounds.holds(answer.basis, now):
                return answer.as_response(b"%b%015x00000" % (_ID_HEAD, self._new_bits()), freshness)
            if not is_live or len(raw) > REQUEST_MAX_BYTES:
                return slow(raw, context)
            decision = self._decide(raw, context)
            return slow(raw, context) if decision is None else framed(decision)

        return behavior

    def batch(self, slow: Behavior) -> Behavior:
        """BatchCheckAccess."""

        def behavior(raw: bytes, context: grpc.ServicerContext) -> Any:
            now = self._monotonic()
            freshness, is_live = self._freshness(now)
            items = split(raw) if is_live and len(raw) <= validate.MESSAGE_MAX_BYTES else None
            if items is None or not 0 < len(items) <= validate.BATCH_MAX_ITEMS:
                return slow(raw, context)
            head = b"%b%015x" % (_ID_HEAD, self._new_bits())
            holds, answers = self._grounds.holds, self._answers
            parts: list[bytes] = []
            for item, suffix in zip(items, _SUFFIXES, strict=False):
                answer = answers.get(item)
                if answer is not None and holds(answer.basis, now):
                    parts.append(answer.as_response(head + suffix, freshness))
                    continue
                decision = self._decide(item, context) if len(item) <= REQUEST_MAX_BYTES else None
                if decision is None:
                    # Malformed, or too large to keep: the slow way names the item.
                    return slow(raw, context)
                parts.append(framed(decision))
            return b"".join(parts)

        return behavior

    def _decide(self, raw: bytes, context: grpc.ServicerContext) -> bytes | None:
        """Decides, and keeps what may be kept. The encoded decision; None: the request is malformed."""
        try:
            request = api.CheckAccessRequest.FromString(raw)
            validate.check_access(request)
            keeps = self._is_asked_again(raw)
            deadline = deadline_of(context, self._clock)
            decision, basis = self._kept.decide(question(request), deadline=deadline, keeps=keeps)
        except (DecodeError, Malformed):
            return None
        body = encoding.lasting_bytes(decision)
        if basis is not None:
            self._answers.put(raw, Answer(body, basis), self._monotonic())
        return encoding.id_bytes(decision.decision_id) + body + encoding.freshness_bytes(decision.freshness)

    def _is_asked_again(self, raw: bytes) -> bool:
        key = b"%x" % (hash(raw) & _HASH_MASK)
        if self._asked.get(key) is not None:
            return True
        self._asked.put(key, True, self._monotonic())
        return False


def split(raw: bytes) -> list[bytes] | None:
    """The items of a message that has nothing but field 1, as messages. None: it has something else, or is broken."""
    items: list[bytes] = []
    place, end = 0, len(raw)
    try:
        while place < end:
            if raw[place] != _ITEM:
                return None
            length = raw[place + 1]
            place += 2
            if length >= 0x80:
                length = length & 0x7F | raw[place] << 7
                if raw[place] >= 0x80:
                    return None
                place += 1
            if place + length > end:
                return None
            items.append(raw[place : place + length])
            place += length
    except IndexError:
        return None
    return items
