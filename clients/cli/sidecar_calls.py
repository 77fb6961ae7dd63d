"""`purser check|consume|report|reserve|settle|release`: talks to a sidecar from a shell."""

# ruff: noqa: PLR0917 — the signatures are the options: Typer reads them, nobody calls these by position.

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Final

import grpc
import isodate
import typer
from rich.markup import escape

from clients.cli import output
from purser import errors, messages, types
from purser.v1 import entitlement_service_pb2 as rpc_pb2
from purser.v1 import entitlement_service_pb2_grpc as rpc_grpc

Customer = Annotated[str, typer.Option("--customer", help="The billing entity. This, or --subject.")]
Subject = Annotated[
    str, typer.Option("--subject", help="Who acts: user, API key, app. Its customer is found by it.")
]
Feature = Annotated[
    str,
    typer.Option(
        "--feature", help="Whose decision is answered. Without it all that the event touches must allow."
    ),
]
EventName = Annotated[
    str, typer.Option("--event", help="The event's name, as meters and rate cards of the catalog have it.")
]
Measures = Annotated[
    list[str] | None, typer.Option("--measure", metavar="NAME=NUMBER", help="May be repeated.")
]
Attributes = Annotated[
    list[str] | None, typer.Option("--attribute", metavar="NAME=TEXT", help="May be repeated.")
]
Key = Annotated[
    str, typer.Option("--key", help="Idempotency key. Without it a random one is made and printed.")
]
ReservationId = Annotated[str, typer.Option("--reservation", help="The reservation's id.")]
Holder = Annotated[str, typer.Option("--holder", help="Of a gauge: who holds.")]
Change = Annotated[str, typer.Option("--change", help="Of a gauge: ADD, REMOVE or SET.")]
Sidecar = Annotated[str, typer.Option("--sidecar", envvar="PURSER_SIDECAR", help="host:port or unix:path.")]
Explain = Annotated[bool, typer.Option("--explain", help="Show every step of the decision.")]
Json = Annotated[bool, typer.Option("--json", help="The whole answer as one line of JSON.")]
MinRevision = Annotated[
    int | None, typer.Option("--min-revision", help="Wait (2 s at most) for this revision.")
]
SIDECAR = "127.0.0.1:7070"
TIMEOUT_SECONDS = 10.0


def check(
    customer: Customer = "",
    subject: Subject = "",
    feature: Feature = "",
    event: EventName = "",
    measure: Measures = None,
    attribute: Attributes = None,
    quantity: Annotated[
        str, typer.Option("--quantity", help="Of the feature's meter, instead of an event.")
    ] = "",
    min_revision: MinRevision = None,
    sidecar: Sidecar = SIDECAR,
    explain: Explain = False,
    as_json: Json = False,
) -> None:
    """May this be done? Records nothing. Exit status 0: allowed, 3: refused, 1: error."""
    fields: types.CheckFields = {
        "feature": feature,
        "explain": explain,
        "customer_id": customer,
        "subject_id": subject,
    }
    if quantity:
        fields["quantity"] = quantity
    if min_revision is not None:
        fields["min_revision"] = min_revision
    with _asking(sidecar) as stub:
        if event or measure or attribute:
            fields = {**fields, **_event(customer, subject, event, measure, attribute)}
        response = stub.CheckAccess(messages.check(fields), timeout=TIMEOUT_SECONDS)
    if as_json:
        output.as_json(response)
    else:
        output.decision(response.decision)
    _exit(allowed=response.decision.allowed)


def consume(
    customer: Customer = "",
    subject: Subject = "",
    feature: Feature = "",
    event: EventName = "",
    measure: Measures = None,
    attribute: Attributes = None,
    holder: Holder = "",
    change: Change = "",
    key: Key = "",
    min_revision: MinRevision = None,
    sidecar: Sidecar = SIDECAR,
    explain: Explain = False,
    as_json: Json = False,
) -> None:
    """Check and record in one step. Exit status 0: allowed, 3: refused, 1: error."""
    with _asking(sidecar) as stub:
        fields = _event(customer, subject, event, measure, attribute, key=key, holder=holder, change=change)
        request = messages.consume(fields, feature, min_revision, explain=explain)
        response = stub.ConsumeUsage(request, timeout=TIMEOUT_SECONDS)
    if as_json:
        output.as_json(response)
    else:
        output.decision(response.decision)
        status = messages.consumed(response).status if response.decision.allowed else "nothing recorded"
        output.console().print(f"  [dim]{'key':<10}[/] {escape(request.event.idempotency_key)} ({status})")
    _exit(allowed=response.decision.allowed)


def report(
    customer: Customer = "",
    subject: Subject = "",
    event: EventName = "",
    measure: Measures = None,
    attribute: Attributes = None,
    feature: Annotated[str, typer.Option("--feature", help="Of a gauge event: the gauge.")] = "",
    holder: Holder = "",
    change: Change = "",
    key: Key = "",
    sidecar: Sidecar = SIDECAR,
    as_json: Json = False,
) -> None:
    """Record what has happened already. Exit status 0: recorded (or known), 3: rejected, 1: error."""
    with _asking(sidecar) as stub:
        fields = _event(customer, subject, event, measure, attribute, key=key, holder=holder, change=change)
        if feature:
            if not (holder or change):
                raise ValueError(
                    "--feature is for gauge events, with --holder and --change; leave it out of others"
                )
            fields["gauge_feature"] = feature
        response = stub.ReportUsage(messages.report([fields]), timeout=TIMEOUT_SECONDS)
    result = messages.report_result(response.results[0])
    if as_json:
        output.as_json(response)
    else:
        output.console().print(
            f"{result.status}  {result.reason}  {result.message}  key {result.idempotency_key}", markup=False
        )
    _exit(allowed=bool(result))


def reserve(
    customer: Customer = "",
    subject: Subject = "",
    feature: Feature = "",
    event: EventName = "",
    measure: Measures = None,
    attribute: Attributes = None,
    reservation: Annotated[
        str, typer.Option("--reservation", help="Its id. Without it a random one is made.")
    ] = "",
    ttl: Annotated[
        str, typer.Option("--ttl", help="How long it holds, as an ISO 8601 span. Default PT5M.")
    ] = "",
    min_revision: MinRevision = None,
    sidecar: Sidecar = SIDECAR,
    explain: Explain = False,
    as_json: Json = False,
) -> None:
    """Hold an estimate. Exit status 0: held, 3: refused, 1: error."""
    with _asking(sidecar) as stub:
        fields = _event(customer, subject, event, measure, attribute)
        span = _span(ttl) if ttl else None
        request = messages.reserve(fields, reservation, feature, span, min_revision, explain=explain)
        response = stub.ReserveUsage(request, timeout=TIMEOUT_SECONDS)
    if as_json:
        output.as_json(response)
    else:
        output.decision(response.decision)
        if response.decision.allowed:
            output.console().print(f"  [dim]{'reserved':<10}[/] {escape(request.reservation_id)}")
    _exit(allowed=response.decision.allowed)


def settle(
    reservation: ReservationId,
    measure: Measures = None,
    attribute: Attributes = None,
    customer: Annotated[str, typer.Option("--customer", help="Only for a reservation that is unknown.")] = "",
    subject: Annotated[str, typer.Option("--subject", help="Only for a reservation that is unknown.")] = "",
    event: Annotated[str, typer.Option("--event", help="Only for a reservation that is unknown.")] = "",
    final: Annotated[
        bool, typer.Option("--final", help="Nothing more comes: make the event, give back the rest.")
    ] = False,
    sidecar: Sidecar = SIDECAR,
    as_json: Json = False,
) -> None:
    """Say what a reservation has used so far, in all."""
    with _asking(sidecar) as stub:
        fields = _event(customer, subject, event, measure, attribute)
        response = stub.SettleReservation(
            messages.settle(fields, reservation, final=final), timeout=TIMEOUT_SECONDS
        )
    if as_json:
        output.as_json(response)
        return
    answer = messages.settlement(response)
    output.console().print(
        f"{answer.reservation.state or 'unknown reservation'}  {reservation}", markup=False
    )
    for label, amounts in (
        ("charged", answer.charged),
        ("returned", answer.returned),
        ("overage", answer.overage),
    ):
        for balance, amount in amounts.items():
            output.console().print(f"  [dim]{label:<10}[/] {escape(balance)}  {amount}")
    if answer.recorded_as:
        output.console().print(f"  [dim]{'recorded':<10}[/] as the fact {escape(answer.recorded_as)}")


def release(reservation: ReservationId, sidecar: Sidecar = SIDECAR, as_json: Json = False) -> None:
    """Give a reservation up: what it had settled is charged, the rest goes back. Exit status 0: done, 1: error.

    `unknown reservation`, also with status 0: this sidecar holds nothing under that id. It is safe to say it again.
    """
    with _asking(sidecar) as stub:
        request = rpc_pb2.ReleaseReservationRequest(reservation_id=reservation)
        response = stub.ReleaseReservation(request, timeout=TIMEOUT_SECONDS)
    if as_json:
        output.as_json(response)
        return
    state = messages.reservation(response.reservation)
    output.console().print(f"{state.state or 'unknown reservation'}  {reservation}", markup=False)


@contextlib.contextmanager
def _asking(sidecar: str) -> Iterator[rpc_grpc.EntitlementServiceStub]:
    try:
        target = messages.target(sidecar, "--sidecar")
        with (
            errors.raising(target),
            grpc.insecure_channel(target, messages.CHANNEL_OPTIONS) as channel,
        ):
            yield rpc_grpc.EntitlementServiceStub(channel)
    except errors.Unavailable as error:
        if error.info.reason:  # the sidecar's own word
            raise output.fail(error) from error
        raise output.fail(errors.Unavailable(f"{error}, or name another with --sidecar ADDRESS")) from error
    except errors.InvalidRequest as error:
        raise output.fail(_with_options(error)) from error
    except (errors.PurserError, ValueError, TypeError) as error:
        raise output.fail(error) from error


_OPTIONS: Final = {
    "customer_id": "--customer",
    "subject_id": "--subject",
    "feature": "--feature",
    "event_name": "--event",
    "measures": "--measure",
    "attributes": "--attribute",
    "quantity": "--quantity",
    "idempotency_key": "--key",
    "reservation_id": "--reservation",
    "holder_id": "--holder",
    "gauge_change": "--change",
    "gauge_feature": "--feature",
    "ttl": "--ttl",
    "min_revision": "--min-revision",
}
"""By which option a field of a request is given."""


def _with_options(error: errors.InvalidRequest) -> errors.InvalidRequest:
    """The same error, which says of every field by which option it is given."""
    message, fields = str(error), {}
    for field, what in error.fields.items():
        named = [part for part in re.split(r"[.\[\]]+", field) if part in _OPTIONS]
        option = _OPTIONS[named[0]] if named else ""
        missing = "empty" in what or "required" in what
        fields[field] = (
            f"{what}; add {option}" if option and missing else f"{what} ({option})" if option else what
        )
        message = message.replace(f"{field}: {what}", f"{field}: {fields[field]}")
    return errors.InvalidRequest(message, info=dataclasses.replace(error.info, fields=fields))


def _event(
    customer: str,
    subject: str,
    event: str,
    measure: list[str] | None,
    attribute: list[str] | None,
    *,
    key: str = "",
    holder: str = "",
    change: str = "",
) -> types.EventFields:
    fields: types.EventFields = {
        "customer_id": customer,
        "subject_id": subject,
        "event_name": event,
        "measures": _pairs(measure, "--measure"),
        "attributes": _pairs(attribute, "--attribute"),
    }
    if key:
        fields["idempotency_key"] = key
    if holder:
        fields["holder_id"] = holder
    if change:
        fields["gauge_change"] = change.upper()
    return fields


def _pairs(given: list[str] | None, option: str) -> dict[str, str]:
    pairs = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"{option} {text}: write NAME=VALUE")
        pairs[name] = value
    return pairs


def _span(text: str) -> timedelta:
    try:
        span = isodate.parse_duration(text)
    except isodate.ISO8601Error as error:
        raise ValueError(f"--ttl {text}: write an ISO 8601 span, for instance PT5M") from error
    if not isinstance(span, timedelta):
        raise ValueError(f"--ttl {text}: months and years have no fixed length; write days or less")  # noqa: TRY004
    return span


def _exit(*, allowed: bool) -> None:
    raise typer.Exit(output.ALLOWED if allowed else output.REFUSED)
