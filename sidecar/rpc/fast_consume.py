"""The fast path of consumes: the same content again under another key, as apps send that count calls.

An encoded event starts with its idempotency key; what stands behind it is looked up as bytes. What was prepared for it
(`deciding/prepared.py`) and the encoded fields that last are joined to the key, the amounts and the moment. Everything
else goes the slow way, which says the same: a test compares them field by field.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final, NamedTuple

import grpc

from purser.v1 import entitlement_service_pb2 as api
from purser.v1.usage_pb2 import UsageEvent
from sidecar.deciding.prepared import KEPT_SECONDS, Prepared, Preparing
from sidecar.deciding.report import UsageStatus
from sidecar.deciding.spending import Spent
from sidecar.deciding.standings import Standings, told
from sidecar.engine.decision import balance_state
from sidecar.engine.entitlement import BalanceSpec
from sidecar.engine.values import BalanceKind, BalanceRef
from sidecar.outbox.port import KeyEntry, Write
from sidecar.rpc import encoding, validate
from sidecar.rpc.fast import LatestFreshness, LatestInstant
from sidecar.rpc.lately import Lately
from sidecar.rpc.service import asked, deadline_of, framed
from sidecar.runtime.clock import Clock
from sidecar.runtime.fields import block, text
from sidecar.view.hints import Hint

Call = Callable[[bytes, grpc.ServicerContext], bytes]

FORMS_MAX: Final = 5_000
SEEN_MAX: Final = 20_000
REQUEST_MAX_BYTES: Final = 2_048

_EVENT: Final = 0x0A
_KEY: Final = 0x0A
_ONE_BYTE: Final = 0x80
_CUSTOMER_ID: Final = b"\x12"
_OCCURRED_AT: Final = b"\x42"
_ID: Final = b"\x0a\x15"
_ACCEPTED: Final = api.ConsumeUsageResponse(status=1).SerializeToString()  # type: ignore[arg-type]


class Parts(NamedTuple):
    """An encoded request, taken apart."""

    key: bytes
    rest: bytes
    """Everything behind the key."""
    of_event: int
    """How many bytes of `rest` are the event's."""


class _Known(NamedTuple):
    hint: Hint | None
    until: datetime | None
    """When its period is over."""
    limit: int | None
    used: int
    overage: int
    form: encoding.BalanceForm


class Shown:
    """One balance of the answers to one content."""

    __slots__ = ("_drawn", "_held", "_hint", "_is_rate", "_known", "_last", "_ref", "_spec", "_unreported")

    def __init__(self, standings: Standings, ref: BalanceRef, spec: BalanceSpec, drawn: int) -> None:
        """`drawn`: what the event adds to what is used."""
        self._hint = standings.view.hint
        self._unreported = standings.unreported.of
        self._held = standings.book.held
        self._ref = ref
        self._spec = spec
        self._drawn = drawn
        self._is_rate = spec.kind is BalanceKind.RATE
        self._known: _Known | None = None
        self._last: tuple[_Known | None, int, bytes] = (None, 0, b"")

    def encoded(self, at: datetime) -> bytes | None:
        """The field of the decision. None: there is more to say of it than what is used and left."""
        ref, known = self._ref, self._known
        hint = self._hint(ref)
        if known is None or known.hint is not hint or (known.until is not None and at >= known.until):
            known = self._known = self._learn(hint, at)
        _, _, limit, used, overage, form = known
        used += self._unreported(ref) + self._drawn
        if overage or self._held(ref):
            return None
        of, last_used, encoded = self._last
        if of is known and last_used == used:
            return encoded
        left = None if limit is None else limit - used
        if limit is not None and left is not None and (left < 0 or (left * 10 < limit and not self._is_rate)):
            return None
        if self._is_rate:
            left = None
        encoded = form.encoded(used, left)
        self._last = known, used, encoded
        return encoded

    def _learn(self, hint: Hint | None, at: datetime) -> _Known:
        standing = told(self._spec, hint, at)
        form = encoding.BalanceForm(balance_state(self._spec, standing))
        return _Known(hint, standing.resets_at, standing.limit, standing.used, standing.overage, form)


class Form(NamedTuple):
    """One content: what was prepared, and its encoded parts."""

    prepared: Prepared
    of_event: int
    canonical: bytes
    """The event behind its key, in the form that is hashed and recorded."""
    found: bytes
    """Ids that the event did not have, encoded."""
    head: bytes
    balances: tuple[Shown, ...]
    tail: bytes


class FastConsumes:
    """Wraps ConsumeUsage. Thread-safe."""

    def __init__(
        self, preparing: Preparing, *, freshness: LatestFreshness, clock: Clock, new_bits: Callable[[], int]
    ) -> None:
        """`new_bits()`: 80 random bits, for decision ids."""
        self._preparing = preparing
        self._freshness = freshness
        self._clock = clock
        self._new_bits = new_bits
        self._instant = LatestInstant(preparing.consume.parties.now)
        self.answered = 0
        """Calls that were answered here since the start. Counted without a lock, for metrics."""
        self._forms: Lately[Form] = Lately(bound=FORMS_MAX, seconds=KEPT_SECONDS)
        self._seen: set[int] = set()

    def consume(self, slow: Call) -> Call:
        """ConsumeUsage. Raises what `slow` raises; `slow` answers whatever is not plain."""

        def behavior(raw: bytes, context: grpc.ServicerContext) -> bytes:
            parts = take_apart(raw)
            if parts is None:
                return slow(raw, context)
            now = self._clock.monotonic()
            freshness, is_live = self._freshness(now)
            if not is_live:
                return slow(raw, context)
            form = self._form(raw, parts, context, now)
            answer = None if form is None else self._again(form, parts.key, freshness, now)
            return slow(raw, context) if answer is None else answer

        return behavior

    def _form(self, raw: bytes, parts: Parts, context: grpc.ServicerContext, now: float) -> Form | None:
        """The form of this content: the one that holds, or, for content that was seen before, a new one."""
        form = self._forms.get(parts.rest)
        if form is not None and form.of_event == parts.of_event and self._preparing.holds(form.prepared, now):
            return form
        mark = hash(parts.rest)
        if mark not in self._seen:
            # Most content is never seen again: preparing costs as much as deciding.
            if len(self._seen) >= SEEN_MAX:
                self._seen = set()
            self._seen.add(mark)
            return None
        form = self._prepare(raw, parts, context)
        if form is not None:
            self._forms.put(parts.rest, form, now)
        return form

    def _prepare(self, raw: bytes, parts: Parts, context: grpc.ServicerContext) -> Form | None:
        request = api.ConsumeUsageRequest.FromString(raw)
        validate.consume(request)
        if request.explain or request.HasField("min_revision"):
            return None
        event = request.event
        if event.idempotency_key.encode() != parts.key or _has_another_key(parts):
            # Of a field that comes twice the last one counts; an empty one shows in the whole request only.
            return None
        prepared = self._preparing.prepare(
            asked(event), feature=request.feature, deadline=deadline_of(context, self._clock)
        )
        if prepared is None:
            return None
        preparing = self._preparing
        bill, outcome = prepared.judged.bill, prepared.outcome
        answers = preparing.consume.answers
        decision = answers.decision(
            prepared.judged, Spent(outcome), decision_id="", at=preparing.consume.parties.now()
        )
        head, tail = encoding.around_balances(replace(decision, warnings=outcome.warnings))
        specs = {charge.ref: charge.spec for charge in bill.charges}
        customer_id = prepared.judged.party.customer_id
        return Form(
            prepared,
            parts.of_event,
            event.SerializeToString(deterministic=True)[len(parts.key) + 2 :],
            b"" if event.customer_id else text(_CUSTOMER_ID, customer_id),
            head,
            tuple(
                Shown(answers.standings, ref, spec, prepared.amounts.get(ref, 0))
                for ref, spec in specs.items()
            ),
            tail,
        )

    def _again(self, form: Form, key: bytes, freshness: bytes, now: float) -> bytes | None:
        """Decides, records and answers. None: leases do not cover it. Raises as `Consume` does."""
        preparing, prepared = self._preparing, form.prepared
        taken = preparing.take(prepared, now)
        if taken is None:
            return None
        at, instant = self._instant(now)
        decision_id = f"d{self._new_bits():020x}"
        answer = self._answer(form, decision_id, freshness, at)
        if answer is None:
            answer = preparing.answer(prepared, taken, decision_id=decision_id, at=at)
        as_sent = b"\x0a%c%b%b" % (len(key), key, form.canonical)
        content_hash = hashlib.sha256(as_sent).digest()
        usage, changes = prepared.form.encoded(
            as_sent + form.found + block(_OCCURRED_AT, instant),
            content_hash=content_hash,
            decision_id=decision_id,
            decided_at=instant,
            view_revision=preparing.view.revision,
            covered=taken,
        )
        entry = KeyEntry(prepared.scope, key.decode(), content_hash, answer)
        consumed = preparing.write(prepared, taken, Write(usage, entry, None, changes))
        self.answered += 1
        if consumed.status is UsageStatus.ACCEPTED:
            return framed(answer) + _ACCEPTED
        status = api.ConsumeUsageResponse(status=int(consumed.status))  # type: ignore[arg-type]
        return framed(consumed.decision) + status.SerializeToString()

    @staticmethod
    def _answer(form: Form, decision_id: str, freshness: bytes, at: datetime) -> bytes | None:
        parts = [_ID, decision_id.encode(), form.head]
        for shown in form.balances:
            encoded = shown.encoded(at)
            if encoded is None:
                return None
            parts.append(encoded)
        parts += (form.tail, freshness)
        return b"".join(parts)


def _has_another_key(parts: Parts) -> bool:
    """Is there a key behind the first one, in the event or in another event that is merged into it?"""
    event = UsageEvent.FromString(parts.rest[: parts.of_event])
    merged = api.ConsumeUsageRequest.FromString(parts.rest[parts.of_event :]).event
    return bool(event.idempotency_key or merged.idempotency_key)


def take_apart(raw: bytes) -> Parts | None:
    """An encoded ConsumeUsageRequest whose event comes first, and in it the key. None: it is not like that."""
    size = len(raw)
    if not 4 < size <= REQUEST_MAX_BYTES or raw[0] != _EVENT:
        return None
    length, place = raw[1], 2
    if length >= _ONE_BYTE:
        length, place = length & 0x7F | raw[2] << 7, 3
        if raw[2] >= _ONE_BYTE:
            return None
    end = place + length
    if end > size or length < 3 or raw[place] != _KEY:
        return None
    behind = place + 2 + raw[place + 1]
    if raw[place + 1] >= _ONE_BYTE or behind > end or behind == place + 2:
        return None
    key = raw[place + 2 : behind]
    # What is no text, or holds a NUL, the slow way names.
    if not key.isascii() or 0 in key:
        return None
    return Parts(key, raw[behind:], end - behind)
