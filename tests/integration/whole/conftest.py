"""Installations in the test's own process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.whole.installation import Installation, installed


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """A control plane on SQLite, and sidecars as the test asks for them."""
    with installed(tmp_path) as found:
        yield found
