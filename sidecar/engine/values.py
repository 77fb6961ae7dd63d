"""Words and numbers that everything else is said in: reasons, kinds, references, events, exact amounts."""

from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple

# The thread's own context is never used. An operation without a sensible result raises: no NaN travels on.
EXACT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])

MAX_AMOUNT: Final = 2**63 - 1
MAX_DIGITS: Final = 60
ZERO: Final = Decimal(0)
ONE: Final = Decimal(1)


class Reason(IntEnum):
    """Why a decision is what it is; numbers as in `purser.v1.Reason`. Among refusals the lowest number goes first."""

    UNSPECIFIED = 0
    OK = 1
    OK_OVERAGE = 2
    OK_FALLBACK = 3
    CUSTOMER_NOT_FOUND = 4
    SUBJECT_NOT_FOUND = 5
    CUSTOMER_SUSPENDED = 6
    FEATURE_NOT_FOUND = 7
    FEATURE_TYPE_MISMATCH = 8
    NO_ACTIVE_SUBSCRIPTION = 9
    NOT_ENTITLED = 10
    REVOKED = 11
    VALUE_NOT_ALLOWED = 12
    LIMIT_REACHED = 13
    INSUFFICIENT_CREDITS = 14
    BUDGET_EXCEEDED = 15
    RATE_LIMITED = 16
    NO_PRICE = 17
    PAYMENT_PAST_DUE = 18
    TRIAL_ENDED = 19
    VIEW_TOO_OLD = 20
    CONTROL_PLANE_UNREACHABLE = 21

    @property
    def refuses(self) -> bool:
        """True for everything after the OKs."""
        return self > Reason.OK_FALLBACK


class BalanceKind(IntEnum):
    """What kind of thing runs out; numbers as in `purser.v1.BalanceKind`."""

    UNSPECIFIED = 0
    WALLET = 1
    ALLOWANCE = 2
    BUDGET = 3
    RATE = 4
    GAUGE = 5


class GaugeChange(IntEnum):
    """What an event does to its holder; numbers as in `purser.v1.GaugeChange`."""

    NONE = 0
    ADD = 1
    REMOVE = 2
    SET = 3


class BalanceRef(NamedTuple):
    """Names one balance of one customer or subject. A tuple, because it is the key of every lookup on the hot path."""

    customer_id: str
    subject_id: str
    """Empty: the customer's own."""
    balance: str


class Event(NamedTuple):
    """One thing that happened, or would. Measures are parsed and not negative; `occurred_at` is aware, in UTC.

    A tuple, because every call makes one.
    """

    event_name: str
    occurred_at: datetime
    customer_id: str = ""
    subject_id: str = ""
    idempotency_key: str = ""
    app_id: str = ""
    measures: Mapping[str, Decimal] = MappingProxyType({})
    attributes: Mapping[str, str] = MappingProxyType({})
    correlation_id: str = ""
    holder_id: str = ""
    gauge_change: GaugeChange = GaugeChange.NONE
    gauge_feature: str = ""


class Finding(NamedTuple):
    """One step of how a decision came to be; `reason` is OK where the step does not stand in the way."""

    step: str
    """`customer`, `subscription`, `entitlement`, `requires`, `rating`, `balance`, `trouble` or `reason`."""
    about: str
    """The feature, balance or rate card in question; empty: the request as a whole."""
    finding: str
    reason: Reason = Reason.OK
    source: str = ""
    """Where the value in force came from: `plan pro@12`."""


class NotANumber(ValueError):
    """The text is no plain decimal number, has more than 60 digits, or is negative where that makes no sense."""


class AmountOutOfRange(ValueError):
    """The amount does not fit 63 bits at its scale."""


def parse_decimal(text: str) -> Decimal:
    """The exact number in a plain decimal string, or a negative one. Raises NotANumber: exponents, NaN, 61 digits."""
    digits = text[1:] if text[:1] == "-" else text
    whole, _, fraction = digits.partition(".")
    if len(digits) > MAX_DIGITS + 1 or not whole.isdecimal() or not digits.isascii():
        raise NotANumber(f"{text[:80]!r} is not a plain decimal number of at most {MAX_DIGITS} digits")
    if digits != whole and not fraction.isdecimal():
        raise NotANumber(f"{text[:80]!r} is not a plain decimal number of at most {MAX_DIGITS} digits")
    return Decimal(text)


def parse_quantity(text: str) -> Decimal:
    """As parse_decimal, but a negative number raises NotANumber too."""
    if text[:1] == "-":
        raise NotANumber(f"{text[:80]!r} is negative")
    return parse_decimal(text)


def format_decimal(value: Decimal) -> str:
    """Without exponent and trailing zeros: `0.014232`, `0`."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text


def to_scaled(value: Decimal, scale: int) -> int:
    """The integer at `scale`, rounded half-even. Raises AmountOutOfRange beyond 63 bits."""
    scaled = int(EXACT.to_integral_value(value.scaleb(scale, EXACT)))
    if not -MAX_AMOUNT <= scaled <= MAX_AMOUNT:
        raise AmountOutOfRange(f"{format_decimal(value)} does not fit 63 bits at scale {scale}")
    return scaled


def to_scaled_exactly(value: Decimal, scale: int) -> int:
    """As to_scaled; raises AmountOutOfRange as well where digits would be lost."""
    scaled = to_scaled(value, scale)
    if from_scaled(scaled, scale) != value:
        raise AmountOutOfRange(f"{format_decimal(value)} has more than {scale} digits after the point")
    return scaled


def from_scaled(amount: int, scale: int) -> Decimal:
    """The exact number behind an integer at `scale`."""
    return Decimal(amount).scaleb(-scale, EXACT)


def format_scaled(amount: int, scale: int) -> str:
    """The decimal string of an integer at `scale`, made without a Decimal: it is on the path of every answer."""
    if scale == 0 or amount == 0:
        return str(amount)
    sign = "-" if amount < 0 else ""
    digits = str(abs(amount)).rjust(scale + 1, "0")
    fraction = digits[-scale:].rstrip("0")
    return f"{sign}{digits[:-scale]}.{fraction}" if fraction else f"{sign}{digits[:-scale]}"


def ceil_scaled(value: Decimal, scale: int) -> int:
    """The integer at `scale`, rounded away from zero: what must be asked for so that `value` is covered."""
    shifted = value.scaleb(scale, EXACT)
    whole = int(shifted.to_integral_value(ROUND_DOWN, EXACT))
    return whole if whole == shifted else whole + 1
