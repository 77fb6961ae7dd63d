"""Requests and who makes them: from a trace or made up, the same for the same seed."""

from pathlib import Path

import pytest

from clients.cli.dev.people import MOST_CHUNKS, PEOPLE, chunks, plan_calls
from clients.cli.dev.sample import BadTrace, LlmRequest, make_sample, read_trace


def test_a_seed_decides_everything() -> None:
    """The same seed gives the same calls, another seed gives others."""
    first, again, other = (plan_calls(make_sample(seed, 200), seed=seed, sidecars=2) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_everybody_calls_through_every_sidecar() -> None:
    """A whole sample has work for each customer and each sidecar, and all reservations are distinct."""
    calls = plan_calls(make_sample(1), seed=1, sidecars=2)
    assert {call.customer_id for call in calls} == {person.customer_id for person in PEOPLE}
    assert {call.sidecar for call in calls} == {0, 1}
    assert len({call.reservation_id for call in calls}) == len(calls)


def test_the_total_is_the_trace() -> None:
    """However it is estimated and streamed, in the end each request has used what its line says."""
    requests = make_sample(3, 300)
    for request, call in zip(requests, plan_calls(requests, seed=3, sidecars=2), strict=True):
        assert call.total["input_tokens"] == str(request.context_tokens)
        assert call.total["output_tokens"] == str(request.generated_tokens)


@pytest.mark.parametrize("tokens", [0, 1, 5, 47, 48, 49, 1899])
def test_chunks_grow_to_the_whole(tokens: int) -> None:
    """Running totals never fall, end with all of it, and are few."""
    totals = chunks(tokens)
    assert list(totals) == sorted(totals)
    assert totals[-1] == tokens
    assert 1 <= len(totals) <= MOST_CHUNKS


def test_reads_a_trace(tmp_path: Path) -> None:
    """Columns are found by name, also behind a byte order mark and among others."""
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "\ufeffTIMESTAMP,Extra,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,x,4808,10\n"
    )
    assert read_trace(trace) == [LlmRequest(4808, 10)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("TIMESTAMP,ContextTokens\n", "no column GeneratedTokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no requests"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nt,1,2\nt,1,-2\n", "line 3: GeneratedTokens is '-2'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nt,1\n", "line 2: GeneratedTokens is ''"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nt,1e3,2\n", "line 2: ContextTokens is '1e3'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nt,900000,2\n", "line 2: ContextTokens is '900000'"),
        (f"TIMESTAMP,ContextTokens,GeneratedTokens\nt,{'9' * 5000},2\n", "ContextTokens is '9+…'"),
        (f"TIMESTAMP,ContextTokens,GeneratedTokens\n{'t' * 200_000},1,2\n", "no CSV"),
    ],
)
def test_a_bad_trace_names_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    """What can not be replayed is refused before anything starts."""
    trace = tmp_path / "trace.csv"
    trace.write_text(text)
    with pytest.raises(BadTrace, match=complaint):
        read_trace(trace)


def test_a_trace_that_is_no_text(tmp_path: Path) -> None:
    """Said as every other complaint about a trace."""
    trace = tmp_path / "trace.csv"
    trace.write_bytes(b"TIMESTAMP,ContextTokens,GeneratedTokens\n\xff\xfe,1,2\n")
    with pytest.raises(BadTrace, match="UTF-8"):
        read_trace(trace)
