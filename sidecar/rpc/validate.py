"""Validation at the edge: what is malformed is named field by field, all of it at once, before anything else is done.

Here is judged what a request says by itself. What needs the catalog (a part larger than its whole) or the
clock (an event far
from now) is judged where those are known; it ends in the same error, `Malformed`.
"""

import re
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from purser.v1 import entitlement_service_pb2 as api
from purser.v1 import usage_pb2 as usage
from sidecar.deciding.errors import Malformed, Violation

ID_MAX_BYTES: Final = 255
MEASURES_MAX: Final = 32
ATTRIBUTES_MAX: Final = 64
ATTRIBUTE_MAX_BYTES: Final = 1024
BATCH_MAX_ITEMS: Final = 1000
MESSAGE_MAX_BYTES: Final = 4 * 1024 * 1024
NUMBER_MAX_DIGITS: Final = 60
TTL_MAX_SECONDS: Final = 24 * 3600

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
_SECONDS_MIN = -62_135_596_800  # 0001-01-01T00:00:00Z, as google.protobuf.Timestamp bounds it
_SECONDS_MAX = 253_402_300_799  # 9999-12-31T23:59:59Z
_SPAN_SECONDS_MAX = 315_576_000_000  # 10,000 years, as google.protobuf.Duration bounds it
_GAUGE_CHANGES = (usage.GAUGE_CHANGE_ADD, usage.GAUGE_CHANGE_REMOVE, usage.GAUGE_CHANGE_SET)


def check_access(request: api.CheckAccessRequest) -> None:
    """Raises `Malformed`."""
    usual = request.HasField("event") and not request.HasField("max_staleness")
    if usual and (request.customer_id or request.subject_id) and _is_plain(request):
        return
    _raise(_check_access(request, ""))


def batch(request: api.BatchCheckAccessRequest) -> None:
    """Raises `Malformed`."""
    wrong = _count(len(request.requests), "requests")
    for index, item in enumerate(request.requests if not wrong else ()):
        wrong += _check_access(item, f"requests[{index}].")
    _raise(wrong)


def consume(request: api.ConsumeUsageRequest) -> None:
    """Raises `Malformed`."""
    if not request.HasField("event"):
        raise Malformed([Violation("event", "is required")])
    event = request.event
    if event.idempotency_key and (event.customer_id or event.subject_id) and _is_plain(request):
        return
    wrong = _event(event, "event", key=True)
    wrong += _text(request.feature, "feature")
    wrong += _gauge(request.event, "event", request.feature)
    wrong += _min_revision(request)
    _raise(wrong)


def report(request: api.ReportUsageRequest) -> None:
    """Raises `Malformed`."""
    wrong = _count(len(request.events), "events")
    for index, event in enumerate(request.events if not wrong else ()):
        wrong += _event(event, f"events[{index}]", key=True)
        wrong += _gauge(event, f"events[{index}]", event.gauge_feature)
    _raise(wrong)


def reserve(request: api.ReserveUsageRequest) -> None:
    """Raises `Malformed`."""
    wrong = _id(request.reservation_id, "reservation_id")
    if not request.HasField("event"):
        raise Malformed([*wrong, Violation("event", "is required: the estimate")])
    wrong += _event(request.event, "event", key=False)
    wrong += _text(request.feature, "feature")
    if _is_gauge(request.event):
        wrong.append(Violation("event.gauge_change", "a gauge is not reserved; use ConsumeUsage"))
    if request.HasField("ttl"):
        wrong += _ttl(request.ttl, "ttl")
    wrong += _min_revision(request)
    _raise(wrong)


def settle(request: api.SettleReservationRequest) -> None:
    """Raises `Malformed`. What only an unknown reservation requires (customer, event name) is judged where
    that is known.
    """
    wrong = _id(request.reservation_id, "reservation_id")
    if request.HasField("event"):
        wrong += _event(request.event, "event", key=False, whole=False)
        if _is_gauge(request.event):
            wrong.append(Violation("event.gauge_change", "a gauge is not reserved; use ConsumeUsage"))
    _raise(wrong)


def extend(request: api.ExtendReservationRequest) -> None:
    """Raises `Malformed`."""
    wrong = _id(request.reservation_id, "reservation_id")
    if request.HasField("event"):
        wrong += _event(request.event, "event", key=False, whole=False)
    if request.HasField("ttl"):
        wrong += _ttl(request.ttl, "ttl")
    if not request.HasField("event") and not request.HasField("ttl"):
        wrong.append(Violation("ttl", "an event, a ttl or both are required"))
    _raise(wrong)


def release(request: api.ReleaseReservationRequest) -> None:
    """Raises `Malformed`."""
    _raise(_id(request.reservation_id, "reservation_id"))


def entitlements(request: api.ListEntitlementsRequest | api.WatchEntitlementsRequest) -> None:
    """Raises `Malformed`."""
    _raise(_who(request.customer_id, request.subject_id, ""))


def size(message: bytes) -> None:
    """Raises `Malformed` for a message that is larger than 4 MiB."""
    if len(message) > MESSAGE_MAX_BYTES:
        raise Malformed(
            [Violation("", f"the message has {len(message)} bytes; at most {MESSAGE_MAX_BYTES} are taken")]
        )


def _is_plain(request: api.ConsumeUsageRequest | api.CheckAccessRequest) -> bool:
    """Has the usual small request a right event, as far as can be seen without looking at each text?

    In so few bytes no text is too long and no map too full. What it can not tell it calls not plain.
    """
    event = request.event
    raw = request.SerializeToString()
    if len(raw) > ID_MAX_BYTES or 0 in raw:
        return False
    if not event.event_name or _is_gauge(event) or event.HasField("occurred_at") or request.min_revision < 0:
        return False
    measures = event.measures
    if len(measures) > MEASURES_MAX // 2 or len(event.attributes) > ATTRIBUTES_MAX // 4:
        return False
    fits = _NUMBER.fullmatch
    for name in measures:
        value = measures[name]
        if not name or len(value) > NUMBER_MAX_DIGITS or not fits(value):
            return False
    return "" not in event.attributes


def _raise(wrong: list[Violation]) -> None:
    if wrong:
        raise Malformed(wrong)


def _check_access(request: api.CheckAccessRequest, at: str) -> list[Violation]:
    wrong = _who(request.customer_id, request.subject_id, at)
    wrong += _text(request.feature, f"{at}feature")
    uses = request.WhichOneof("usage")
    if uses == "event":
        event = request.event
        wrong += _event(event, f"{at}event", key=False, who=False)
        wrong += _gauge(event, f"{at}event", request.feature)
    elif not request.feature:
        wrong.append(Violation(f"{at}feature", "is required unless an event is given"))
    if uses == "quantity":
        wrong += _number(request.quantity, f"{at}quantity")
    if request.HasField("max_staleness"):
        wrong += _duration(request.max_staleness, f"{at}max_staleness")
    wrong += _min_revision(request, at)
    return wrong


def _event(
    event: usage.UsageEvent, at: str, *, key: bool, who: bool = True, whole: bool = True
) -> list[Violation]:
    wrong: list[Violation] = []
    if key:
        wrong += _id(event.idempotency_key, f"{at}.idempotency_key")
    else:
        wrong += _text(event.idempotency_key, f"{at}.idempotency_key")
    if who and whole:
        wrong += _who(event.customer_id, event.subject_id, f"{at}.")
    else:
        wrong += _text(event.customer_id, f"{at}.customer_id") + _text(event.subject_id, f"{at}.subject_id")
    wrong += _text(event.app_id, f"{at}.app_id")
    wrong += _text(event.correlation_id, f"{at}.correlation_id")
    if whole and not event.event_name and not _is_gauge(event):
        wrong.append(Violation(f"{at}.event_name", "must not be empty"))
    wrong += _text(event.event_name, f"{at}.event_name")
    if event.HasField("occurred_at"):
        wrong += _timestamp(event.occurred_at, f"{at}.occurred_at")
    return wrong + _measures(event, at) + _attributes(event, at)


def _measures(event: usage.UsageEvent, at: str) -> list[Violation]:
    measures = event.measures
    if not measures:
        return []
    if len(measures) > MEASURES_MAX:
        return [Violation(f"{at}.measures", f"has {len(measures)} entries; at most {MEASURES_MAX} are taken")]
    wrong: list[Violation] = []
    for name, value in measures.items():
        if not _NUMBER.fullmatch(value) or len(value) > NUMBER_MAX_DIGITS:
            wrong += _number(value, f'{at}.measures["{name}"]')
        wrong += _id(name, f'{at}.measures["{name[:40]}"]')
    return wrong


def _attributes(event: usage.UsageEvent, at: str) -> list[Violation]:
    attributes = event.attributes
    if not attributes:
        return []
    if len(attributes) > ATTRIBUTES_MAX:
        what = f"has {len(attributes)} entries; at most {ATTRIBUTES_MAX} are taken"
        return [Violation(f"{at}.attributes", what)]
    wrong: list[Violation] = []
    for name, value in attributes.items():
        wrong += _id(name, f'{at}.attributes["{name[:40]}"]')
        if len(value) > ATTRIBUTE_MAX_BYTES // 4 and len(value.encode()) > ATTRIBUTE_MAX_BYTES:
            wrong.append(
                Violation(f'{at}.attributes["{name}"]', f"is longer than {ATTRIBUTE_MAX_BYTES} bytes")
            )
        elif "\0" in value:
            wrong.append(Violation(f'{at}.attributes["{name}"]', "holds a NUL character"))
    return wrong


def _is_gauge(event: usage.UsageEvent) -> bool:
    return event.gauge_change != usage.GAUGE_CHANGE_UNSPECIFIED or bool(
        event.gauge_feature or event.holder_id
    )


def _gauge(event: usage.UsageEvent, at: str, feature: str) -> list[Violation]:
    if not _is_gauge(event):
        return []
    wrong = _id(event.holder_id, f"{at}.holder_id") + _text(event.gauge_feature, f"{at}.gauge_feature")
    if event.gauge_change not in _GAUGE_CHANGES:
        wrong.append(Violation(f"{at}.gauge_change", "a gauge event is one of ADD, REMOVE and SET"))
    if not feature and not event.gauge_feature:
        wrong.append(Violation("feature", "a gauge event names its gauge"))
    elif feature and event.gauge_feature and feature != event.gauge_feature:
        wrong.append(
            Violation(f"{at}.gauge_feature", f"says {event.gauge_feature!r}, the request {feature!r}")
        )
    return wrong


def _who(customer_id: str, subject_id: str, at: str) -> list[Violation]:
    if not customer_id and not subject_id:
        return [Violation(f"{at}customer_id", "a customer_id or a subject_id is required")]
    return _text(customer_id, f"{at}customer_id") + _text(subject_id, f"{at}subject_id")


def _id(value: str, at: str) -> list[Violation]:
    if not value:
        return [Violation(at, "must not be empty")]
    return _text(value, at)


def _text(value: str, at: str) -> list[Violation]:
    # A character has at most 4 bytes, so that most texts need no encoding to be known as short.
    if len(value) > ID_MAX_BYTES // 4 and len(value.encode()) > ID_MAX_BYTES:
        return [Violation(at, f"is longer than {ID_MAX_BYTES} bytes")]
    if "\0" in value:
        return [Violation(at, "holds a NUL character")]
    return []


def _number(value: str, at: str) -> list[Violation]:
    if value.startswith("-") and _NUMBER.fullmatch(value, 1):
        return [Violation(at, f"{value[:80]!r} is negative")]
    if not _NUMBER.fullmatch(value):
        return [Violation(at, f"{value[:80]!r} is not a decimal number without exponent")]
    if len(value.replace(".", "")) > NUMBER_MAX_DIGITS:
        return [Violation(at, f"has more than {NUMBER_MAX_DIGITS} digits")]
    return []


def _count(items: int, at: str) -> list[Violation]:
    if not items:
        return [Violation(at, "must not be empty")]
    if items > BATCH_MAX_ITEMS:
        return [Violation(at, f"has {items} items; at most {BATCH_MAX_ITEMS} are taken")]
    return []


def _min_revision(
    request: api.CheckAccessRequest | api.ConsumeUsageRequest | api.ReserveUsageRequest, at: str = ""
) -> list[Violation]:
    if request.min_revision < 0:
        return [Violation(f"{at}min_revision", "must not be negative")]
    return []


def _duration(span: Duration, at: str) -> list[Violation]:
    if span.seconds < 0 or not 0 <= span.nanos < 1_000_000_000:
        return [Violation(at, "must not be negative")]
    if span.seconds > _SPAN_SECONDS_MAX:
        return [Violation(at, "is longer than 10,000 years")]
    return []


def _ttl(span: Duration, at: str) -> list[Violation]:
    wrong = _duration(span, at)
    nanos = span.seconds * 1_000_000_000 + span.nanos
    if not wrong and not 0 < nanos <= TTL_MAX_SECONDS * 1_000_000_000:
        wrong.append(Violation(at, "must be more than 0 and at most 24 hours"))
    return wrong


def _timestamp(at_time: Timestamp, at: str) -> list[Violation]:
    if not _SECONDS_MIN <= at_time.seconds <= _SECONDS_MAX or not 0 <= at_time.nanos < 1_000_000_000:
        return [Violation(at, "is not a time between the years 1 and 9999")]
    return []
