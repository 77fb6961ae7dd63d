"""LLM requests to replay: from a trace file, or made from the seed in the same shape."""

from __future__ import annotations

import csv
import math
import random
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
SAMPLE_SIZE = 1500
MOST_TOKENS = 100_000
"""In one request; a trace beyond it is not one of LLM requests."""
DIGITS_MAX = 100
SHOWN_MAX = 60
"""Of a text that is no number."""


@dataclass(frozen=True, slots=True)
class LlmRequest:
    """One request of a trace, in tokens."""

    context_tokens: int
    generated_tokens: int


class BadTrace(ValueError):
    """The trace can not be replayed; the message names the line."""


def read_trace(path: Path) -> list[LlmRequest]:
    """Every request of a CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens, in its order.

    Raises:
        BadTrace: it is no CSV, a column or a number is missing, or there are no requests.
        OSError: the file can not be read.
    """
    try:
        return _read(path)
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadTrace(f"{path}: no CSV in UTF-8: {error}") from error


def _read(path: Path) -> list[LlmRequest]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise BadTrace(
                f"{path}, line 1: no column {', '.join(missing)}; a trace has {', '.join(COLUMNS)}"
            )
        found = [_request(row, f"{path}, line {reader.line_num}") for row in reader]
    if not found:
        raise BadTrace(f"{path}: no requests below the header")
    return found


def _request(row: dict[str, str | None], where: str) -> LlmRequest:
    return LlmRequest(_tokens(row, "ContextTokens", where), _tokens(row, "GeneratedTokens", where))


def _tokens(row: dict[str, str | None], column: str, where: str) -> int:
    text = (row[column] or "").strip()
    is_whole = text.isascii() and text.isdigit()
    if not is_whole or len(text) > DIGITS_MAX or int(text) > MOST_TOKENS:
        shown = text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"
        raise BadTrace(f"{where}: {column} is {shown!r}; write a whole number from 0 to {MOST_TOKENS:,}")
    return int(text)


def make_sample(seed: int, size: int = SAMPLE_SIZE) -> list[LlmRequest]:
    """Requests of the project's own making: long prompts and short answers, log-normal, as code completion has them."""
    chance = random.Random(f"sample {seed}")  # noqa: S311 -- reproducible on purpose
    return [
        LlmRequest(
            context_tokens=_log_normal(chance, median=1450, spread=1.0, most=7437),
            generated_tokens=_log_normal(chance, median=16, spread=1.1, most=1900),
        )
        for _ in range(size)
    ]


def _log_normal(chance: random.Random, *, median: int, spread: float, most: int) -> int:
    return max(3, min(most, round(chance.lognormvariate(math.log(median), spread))))
