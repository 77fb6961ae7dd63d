"""A process that ends by itself is excused by what it says, and by nothing else."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.histories.deaths import why_it_may

SERVING = '{"grpc": "127.0.0.1:7070", "event": "serving", "level": "info"}\n'
FULL = "error  /data/outbox.sqlite3: database or disk is full\n"
FAILING = "error  /data/outbox.sqlite3: disk I/O error\n"
LOCK = "error  [Errno 28] No space left on device: '/data/outbox.sqlite3.lock'\n"
AWAY = 'error  the database: connection failed: connection to server at "127.0.0.1", port 5432 failed\n'
TRACE = "Traceback (most recent call last):\n  File ...\n"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (FULL, "no room at the start"),
        (LOCK, "no room at the start"),
        (FAILING, "the disk fails at the start"),
        (AWAY, "the database is away at the start"),
    ],
)
def test_who_says_why_it_can_not_start_may_end(said: str, why: str) -> None:
    """With status 1, before it has served."""
    assert why_it_may(1, said) == why


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (-signal.SIGSEGV, FULL),
        (-signal.SIGKILL, ""),
        (0, ""),
        (0, FULL),
        (1, ""),
        (1, "error  the address is taken\n"),
        (1, SERVING + FULL),
        (1, SERVING.replace("serving", "listening") + AWAY),
        (1, TRACE + FULL),
        (2, AWAY),
    ],
)
def test_who_ends_otherwise_must_not(status: int, said: str) -> None:
    """By a signal that nobody sent, with a traceback, without a word, or when it had served already."""
    assert why_it_may(status, said) is None
