"""Events as they are posted: the plain form, CloudEvents 1.0, and the form that `GET /v1/events` answers."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from control_plane.db.types import is_storable
from control_plane.errors import FieldProblem, Invalid
from control_plane.rest.problems import not_json
from purser.v1.usage_pb2 import GaugeChange, UsageEvent
from sidecar.engine.values import NotANumber, format_decimal, parse_quantity

MAX_EVENTS = 1000
MAX_MEASURES = 32
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_BYTES = 1024
MAX_ID_BYTES = 255
NOT_STORABLE = "without NUL and halves of surrogate pairs"

TEXTS = (
    *("idempotency_key", "customer_id", "subject_id", "app_id", "event_name", "correlation_id"),
    *("holder_id", "gauge_feature"),
)
PLAIN = {*TEXTS, "timestamp", "occurred_at", "properties", "measures", "attributes", "gauge_change"}
GAUGE_CHANGES = {name.removeprefix("GAUGE_CHANGE_"): value for name, value in GaugeChange.items() if value}

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\s?(Z|z|[+-]\d\d:\d\d)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Posted:
    """An event as the caller sent it. `who`: a customer's or subject's id, where the form does not say which."""

    event: UsageEvent
    occurred_at: datetime | None
    who: str = ""


def read_events(body: bytes) -> tuple[Sequence[Posted], bool]:
    """One event or a list of them, and whether it was a list. Numbers are read from their text. Raises Invalid."""
    try:
        data = json.loads(body, parse_float=Decimal, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise Invalid(FieldProblem("body", not_json(error.pos, error.msg))) from error
    except (ValueError, RecursionError) as error:
        raise Invalid(FieldProblem("body", f"is not JSON: {error}")) from error
    several = isinstance(data, list)
    items = data if several else [data]
    if not 1 <= len(items) <= MAX_EVENTS:
        raise Invalid(FieldProblem("body", f"1 to {MAX_EVENTS} events"))
    problems: list[FieldProblem] = []
    posted = []
    for index, item in enumerate(items):
        reading = _Reading(f"[{index}]." if several else "", problems)
        posted.append(reading.event(item))
    if problems:
        raise Invalid(*problems)
    return posted, several


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


class _Reading:
    """Reads one event, and says of every field what is wrong with it."""

    def __init__(self, where: str, problems: list[FieldProblem]) -> None:
        self._where = where
        self._problems = problems

    def event(self, item: Any) -> Posted:
        if not isinstance(item, Mapping):
            self._problem("event", "an object")
            return Posted(UsageEvent(), None)
        return self._cloud_event(item) if "specversion" in item else self._plain(item)

    def _plain(self, item: Mapping[str, Any]) -> Posted:
        for name in sorted(item.keys() - PLAIN):
            self._problem(name, "is not known")
        event = UsageEvent()
        for name in TEXTS:
            setattr(event, name, self._text(item, name))
        self._required(event.idempotency_key, "idempotency_key")
        if not event.customer_id and not event.subject_id:
            self._problem("customer_id", "a customer_id or a subject_id is required")
        self._properties(event, item.get("properties"), "properties")
        self._measures(event, item.get("measures"))
        self._attributes(event, item.get("attributes"))
        change = item.get("gauge_change")
        if change is not None:
            if isinstance(change, str) and change in GAUGE_CHANGES:
                event.gauge_change = GaugeChange.ValueType(GAUGE_CHANGES[change])
            else:
                self._problem("gauge_change", "one of " + ", ".join(GAUGE_CHANGES))
        if not event.gauge_change:
            self._required(event.event_name, "event_name")
        self._bounds(event)
        field = "timestamp" if "timestamp" in item else "occurred_at"
        return Posted(event, self._instant(item.get(field), field))

    def _cloud_event(self, item: Mapping[str, Any]) -> Posted:
        if item["specversion"] != "1.0":
            self._problem("specversion", "only 1.0 is known")
        source, identity = self._text(item, "source"), self._text(item, "id")
        for name in ("id", "source", "type", "subject"):
            self._required(self._text(item, name), name)
        key = f"{source}#{identity}"
        if len(key.encode()) > MAX_ID_BYTES:
            self._problem("id", f"source and id together have at most {MAX_ID_BYTES - 1} bytes")
        event = UsageEvent(idempotency_key=key, event_name=self._text(item, "type"))
        self._properties(event, item.get("data"), "data")
        self._bounds(event)
        return Posted(event, self._instant(item.get("time"), "time"), self._text(item, "subject"))

    def _text(self, item: Mapping[str, Any], name: str) -> str:
        value = item.get(name)
        if value is None:
            return ""
        if not isinstance(value, str) or not is_storable(value) or len(value.encode()) > MAX_ID_BYTES:
            self._problem(name, f"a text of at most {MAX_ID_BYTES} bytes, {NOT_STORABLE}")
            return ""
        return value

    def _required(self, value: str, name: str) -> None:
        if not value:
            self._problem(name, "is required")

    def _properties(self, event: UsageEvent, properties: Any, field: str) -> None:
        """Numbers become measures, the rest attributes."""
        if properties is None:
            return
        if not isinstance(properties, Mapping):
            self._problem(field, "an object")
            return
        for name, value in self._storable(properties, field):
            if isinstance(value, bool):
                event.attributes[name] = "true" if value else "false"
            elif isinstance(value, int | Decimal):
                self._measure(event, name, value, f"{field}.{name}")
            elif isinstance(value, str):
                event.attributes[name] = value
            elif value is not None:
                self._problem(f"{field}.{name}", "a number, a text or a truth value")

    def _storable(self, mapping: Mapping[str, Any], field: str) -> Iterator[tuple[str, Any]]:
        """What is written in texts that can be kept; the rest is a problem, and left out."""
        for name, value in mapping.items():
            if is_storable(name) and not (isinstance(value, str) and not is_storable(value)):
                yield name, value
            else:
                self._problem(f"{field}.{name}", NOT_STORABLE)

    def _measures(self, event: UsageEvent, measures: Any) -> None:
        if measures is None:
            return
        if not isinstance(measures, Mapping):
            self._problem("measures", "an object")
            return
        for name, value in self._storable(measures, "measures"):
            self._measure(event, name, value, f"measures.{name}")

    def _measure(self, event: UsageEvent, name: str, value: Any, field: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
            self._problem(field, "a decimal string or a number")
            return
        try:
            # A number with a huge exponent must not be written out.
            small = not isinstance(value, Decimal) or abs(value.adjusted()) <= 60
            text = format_decimal(value) if isinstance(value, Decimal) and small else str(value)
            event.measures[name] = format_decimal(parse_quantity(text))
        except NotANumber as error:
            self._problem(field, str(error))

    def _attributes(self, event: UsageEvent, attributes: Any) -> None:
        if attributes is None:
            return
        if not isinstance(attributes, Mapping):
            self._problem("attributes", "an object")
            return
        for name, value in self._storable(attributes, "attributes"):
            if isinstance(value, str):
                event.attributes[name] = value
            else:
                self._problem(f"attributes.{name}", "a text")

    def _bounds(self, event: UsageEvent) -> None:
        if len(event.measures) > MAX_MEASURES:
            self._problem("measures", f"at most {MAX_MEASURES}")
        if len(event.attributes) > MAX_ATTRIBUTES:
            self._problem("attributes", f"at most {MAX_ATTRIBUTES}")
        for name, value in event.attributes.items():
            if len(value.encode()) > MAX_ATTRIBUTE_BYTES:
                self._problem(f"attributes.{name}", f"at most {MAX_ATTRIBUTE_BYTES} bytes")
        for name in (*event.measures, *event.attributes):
            if not name or len(name.encode()) > MAX_ID_BYTES:
                self._problem("properties", f"names have 1 to {MAX_ID_BYTES} bytes")

    def _instant(self, value: Any, field: str) -> datetime | None:
        if value is None:
            return None
        match = _RFC3339.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self._problem(field, "an instant such as 2030-01-01T12:00:00Z")
            return None
        day, clock, fraction, zone = match.groups()
        offset = "+00:00" if zone in {"Z", "z"} else zone
        try:
            at = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:0<6}{offset}")
            return at.astimezone(UTC)
        except (ValueError, OverflowError) as error:
            self._problem(field, str(error))
            return None

    def _problem(self, field: str, problem: str) -> None:
        self._problems.append(FieldProblem(f"{self._where}{field}", problem))
