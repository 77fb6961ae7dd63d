"""A herd whose control plane was away is back soon, and does no harm. With real connections: `tests/e2e/herd`."""

import json
import subprocess
import sys
from typing import Any

import pytest


def herd(sidecars: int) -> dict[str, Any]:
    """In a process of its own, as the simulation's."""
    command = [sys.executable, "-m", "tests.simulation.herd", str(sidecars)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    print(f"\n{ended.stdout}")
    return found


def check(found: dict[str, Any], *, back_seconds: float) -> None:
    """All are back in time; nobody's session fails for good, no stream breaks again, others are served meanwhile, and
    everything is in the books.
    """
    assert found["violations"] == []
    assert found["all_back_seconds"] < back_seconds
    assert found["slowest_transaction_seconds"] < 10.0
    assert found["streams_again"] == found["sidecars"]
    assert found["streams_broken_later"] == 0
    assert found["sessions_asked"] < 4 * found["sidecars"]
    assert found["accepted"] > found["sidecars"]


def test_fifty_sidecars_come_back() -> None:
    """In `make test`."""
    check(herd(50), back_seconds=10.0)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_thousand_sidecars_come_back() -> None:
    """All of them at the same instant."""
    check(herd(1000), back_seconds=60.0)
