"""Properties of spans and periods: see `sidecar/engine/README.md`."""

from calendar import monthrange
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from sidecar.engine.periods import Period, Span
from tests.properties.engine.worlds import instants, quick

spans = st.sampled_from(["P1M", "P3M", "P1Y", "P1D", "P1W", "PT1H", "P1M2DT3H", "P10D"]).map(Span.parse)


@quick
@given(spans, instants, instants)
def test_periods_tile(every: Span, anchor_at: datetime, at: datetime) -> None:
    """Every instant lies in exactly one period, and periods follow each other without gap or overlap."""
    period = Period(every, anchor_at)
    window = period.window(at)
    assert window.start <= at < window.end
    assert period.window(window.end).start == window.end
    assert period.window(window.start - timedelta(microseconds=1)).end == window.start
    assert period.window(anchor_at).start == anchor_at


@quick
@given(instants, instants)
def test_months_keep_their_day(anchor_at: datetime, at: datetime) -> None:
    """A monthly period begins on its anchor's day, or on the last day of a month that is shorter."""
    start = Period(Span.parse("P1M"), anchor_at).window(at).start
    assert start.day == min(anchor_at.day, monthrange(start.year, start.month)[1])
    assert start.timetz() == anchor_at.timetz()


@quick
@given(st.integers(0, 1200), st.integers(0, 10**6), st.integers(0, 86_399))
def test_spans_print_what_they_read(months: int, days: int, seconds: int) -> None:
    """A span's text reads back as the same span."""
    span = Span(months, timedelta(days=days % 36_000, seconds=seconds))
    if span.months or span.time:
        assert Span.parse(str(span)) == span
