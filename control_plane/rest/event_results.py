"""What becomes of posted events, each by itself."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field


class EventOutcome(StrEnum):
    """Of one event."""

    ACCEPTED = "ACCEPTED"
    DUPLICATE = "DUPLICATE"
    REJECTED = "REJECTED"


class EventReason(StrEnum):
    """Why it was rejected, or what else is to be said of it."""

    TOO_OLD = "TOO_OLD"
    IN_THE_FUTURE = "IN_THE_FUTURE"
    UNKNOWN_EVENT = "UNKNOWN_EVENT"
    KEY_CONFLICT = "KEY_CONFLICT"
    SUBJECT_NOT_FOUND = "SUBJECT_NOT_FOUND"
    UNBOOKABLE = "UNBOOKABLE"
    UNKNOWN_CUSTOMER = "UNKNOWN_CUSTOMER"


class EventResult(BaseModel):
    """Of one event, in the order of the request."""

    idempotency_key: str
    status: EventOutcome = Field(
        description="`ACCEPTED`: it is in the books, or kept for later (`UNKNOWN_CUSTOMER`). `DUPLICATE`: it was "
        "there already, with the same content. `REJECTED`: it left nothing, and its key is free."
    )
    reason: EventReason | None = Field(
        None,
        description="Of a rejected one: `TOO_OLD`, `IN_THE_FUTURE`: by `occurred_at`. `UNKNOWN_EVENT`: nothing in the "
        "catalog reads an event of this name. `KEY_CONFLICT`: the key was used with other content. "
        "`SUBJECT_NOT_FOUND`: the subject alone is to say who the customer is, and is not registered, or belongs to "
        "another. `UNBOOKABLE`: its numbers do not fit the books (beyond 63 bits at the unit's scale) or contradict "
        "each other (a part that is larger than its whole). Of an accepted one: `UNKNOWN_CUSTOMER`: kept under "
        "`/v1/dead-letters`, and booked by a replay once the customer is there.",
    )
    message: str | None = Field(None, description="The same in words, with what is needed to mend it.")


class PostedEvents(BaseModel):
    """Of a single event its result also stands beside the list; a rejected one is a problem then, and no result."""

    results: list[EventResult]
    revision: int
    idempotency_key: str | None = None
    status: EventOutcome | None = None
    reason: EventReason | None = None
    message: str | None = None


def accepted(key: str) -> dict[str, Any]:
    """A result, as it stands as long as nothing is wrong."""
    return {"idempotency_key": key, "status": EventOutcome.ACCEPTED.value, "reason": None, "message": None}


def rejected(reason: EventReason, message: str) -> dict[str, Any]:
    """What changes in a result then."""
    return {"status": EventOutcome.REJECTED.value, "reason": reason.value, "message": message}
