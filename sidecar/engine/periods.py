"""Spans and periods: ISO 8601 durations, with calendar months kept apart from time, counted from an anchor, in UTC."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from dateutil.relativedelta import relativedelta
from isodate import Duration, ISO8601Error, parse_duration

CALENDAR_ANCHOR: Final = datetime(2001, 1, 1, tzinfo=UTC)
"""A Monday, a first of a month, of a quarter and of a year: every calendar period begins there."""

_LONGEST_MONTHS: Final = 1200
_LONGEST_TIME: Final = timedelta(days=36_525)
_MEAN_MONTH: Final = timedelta(days=30, hours=10, minutes=29)


class NotASpan(ValueError):
    """The text is no ISO 8601 duration above zero, at most 100 years, with whole months."""


class Window(NamedTuple):
    """A half-open interval `[start, end)`, aware, in UTC."""

    start: datetime
    end: datetime

    def holds(self, at: datetime) -> bool:
        """Is the instant inside?"""
        return self.start <= at < self.end


@dataclass(frozen=True, slots=True)
class Span:
    """A duration above zero. Days and weeks are time (UTC has no summer); months and years are of the calendar."""

    months: int
    time: timedelta

    @staticmethod
    def parse(text: str) -> "Span":
        """Reads `P1M`, `P1Y`, `P7D`, `PT1M`. Raises NotASpan."""
        return _parse(text)

    def __str__(self) -> str:
        """The canonical ISO 8601 form: equal spans print alike."""
        years, months = divmod(self.months, 12)
        days, seconds = self.time.days, self.time.seconds
        date = "".join(f"{n}{letter}" for n, letter in ((years, "Y"), (months, "M"), (days, "D")) if n)
        hours, rest = divmod(seconds, 3600)
        minutes, whole = divmod(rest, 60)
        micro = f"{self.time.microseconds:06d}".rstrip("0")
        second = f"{whole}.{micro}" if micro else str(whole)
        parts = ((str(hours), "H"), (str(minutes), "M"), (second, "S"))
        clock = "".join(f"{n}{letter}" for n, letter in parts if n != "0")
        return f"P{date}T{clock}" if clock else f"P{date}"

    @property
    def is_time(self) -> bool:
        """True: without calendar months, so always equally long."""
        return self.months == 0

    def after(self, at: datetime, times: int = 1) -> datetime:
        """`at` plus so many spans in one step: the 31st falls on a shorter month's last day, and comes back."""
        moved = at + relativedelta(months=self.months * times) if self.months else at
        return moved + self.time * times


@lru_cache(maxsize=512)
def _parse(text: str) -> Span:
    if not 2 <= len(text) <= 40:
        raise NotASpan(f"{text[:40]!r} is not an ISO 8601 duration such as P1M or PT1M")
    try:
        parsed = parse_duration(text)
    except (ISO8601Error, ValueError, OverflowError, ArithmeticError) as error:
        raise NotASpan(f"{text!r} is not an ISO 8601 duration such as P1M or PT1M") from error
    months, time = 0, parsed
    if isinstance(parsed, Duration):
        exact = parsed.years * 12 + parsed.months
        months, time = int(exact), parsed.tdelta
        if months != exact:
            raise NotASpan(f"{text!r} has a fraction of a month")
    if months < 0 or time < timedelta(0) or (not months and not time):
        raise NotASpan(f"{text!r} is not longer than nothing")
    if months > _LONGEST_MONTHS or time > _LONGEST_TIME:
        raise NotASpan(f"{text!r} is longer than 100 years")
    return Span(months, time)


@dataclass(frozen=True, slots=True)
class Period:
    """A span that repeats without gap from an anchor, forwards and backwards."""

    every: Span
    anchor_at: datetime

    def begins(self, number: int) -> datetime:
        """The beginning of the period with that number; 0 begins at the anchor."""
        return self.every.after(self.anchor_at, number)

    def window(self, at: datetime) -> Window:
        """The period that holds the instant."""
        return _window(self, self.number(at))

    def number(self, at: datetime) -> int:
        """The number of the period that holds the instant; 0 begins at the anchor, those before it are negative."""
        every = self.every
        mean = every.months * _MEAN_MONTH + every.time if every.months else every.time
        number = (at - self.anchor_at) // mean
        while _window(self, number).start > at:
            number -= 1
        while _window(self, number).end <= at:
            number += 1
        return number


@lru_cache(maxsize=8192)
def _window(period: Period, number: int) -> Window:
    # Kept, because calendar arithmetic costs more than a whole decision, and asks for the same few windows.
    return Window(period.begins(number), period.begins(number + 1))


def calendar(every: Span) -> Period:
    """The period that follows the calendar: months from the 1st, weeks from Monday, days from midnight UTC."""
    return Period(every, CALENDAR_ANCHOR)
