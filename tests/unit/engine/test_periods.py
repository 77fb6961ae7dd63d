"""Spans and periods, by example."""

from datetime import UTC, datetime, timedelta

import pytest

from sidecar.engine.periods import NotASpan, Period, Span, calendar


def test_the_31st_falls_on_a_shorter_month_s_last_day_and_comes_back() -> None:
    """Counted from the anchor and not from the month that was shortened."""
    period = Period(Span.parse("P1M"), datetime(2027, 12, 31, 8, tzinfo=UTC))
    assert [period.begins(n).day for n in range(6)] == [31, 31, 29, 31, 30, 31]
    assert period.begins(-1) == datetime(2027, 11, 30, 8, tzinfo=UTC)


def test_a_leap_day_anchors_years() -> None:
    """The 29th of February is the 28th in other years."""
    period = Period(Span.parse("P1Y"), datetime(2024, 2, 29, tzinfo=UTC))
    assert [(period.begins(n).month, period.begins(n).day) for n in (1, 2, 4)] == [(2, 28), (2, 28), (2, 29)]


@pytest.mark.parametrize(
    ("every", "start"),
    [
        ("P1M", datetime(2026, 3, 1, tzinfo=UTC)),
        ("P3M", datetime(2026, 1, 1, tzinfo=UTC)),
        ("P1W", datetime(2026, 3, 9, tzinfo=UTC)),
        ("P1D", datetime(2026, 3, 10, tzinfo=UTC)),
        ("PT6H", datetime(2026, 3, 10, 12, tzinfo=UTC)),
    ],
)
def test_calendar_periods(every: str, start: datetime) -> None:
    """Months from the 1st, quarters from January, weeks from Monday, days from midnight."""
    assert calendar(Span.parse(every)).window(datetime(2026, 3, 10, 17, tzinfo=UTC)).start == start


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "P0D", "-P1D", "P0.5M", "1M", "P999Y", "P1M ", "x" * 99, "P1S", "nan"]
)
def test_what_is_no_span(text: str) -> None:
    """Nothing, negative, a part of a month, or not ISO 8601."""
    with pytest.raises(NotASpan):
        Span.parse(text)


def test_spans_print_canonically() -> None:
    """Equal spans print alike."""
    assert str(Span.parse("P12M")) == str(Span.parse("P1Y")) == "P1Y"
    assert str(Span.parse("PT60S")) == str(Span.parse("PT1M")) == "PT1M"
    assert str(Span.parse("P1W")) == "P7D"
    assert str(Span(0, timedelta(milliseconds=1500))) == "PT1.5S"
