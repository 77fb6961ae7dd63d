"""What both processes export is what docs/metrics.md names."""

import re
from pathlib import Path

import httpx
import pytest

from tests.integration.whole.installation import Installation

PAGE = Path(__file__).resolve().parents[3] / "docs/metrics.md"


def exported(address: str) -> set[str]:
    """Names on a process's /metrics; when each was made is the library's own."""
    text = httpx.get(f"http://{address}/metrics").text
    return {
        name for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE) if not name.endswith("_created")
    }


@pytest.mark.parametrize("process", ["Sidecar", "Control plane"])
def test_every_metric_is_named_and_exists(installation: Installation, process: str) -> None:
    """Each that a running process exports is on its page, and each on the page is exported."""
    section = PAGE.read_text().split(f"## {process}\n")[1].split("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))
    address = (
        installation.sidecar().sidecar.http_address
        if process == "Sidecar"
        else installation.office.rest_address
    )
    assert exported(address) == named


def test_what_operators_are_told_to_watch_exists() -> None:
    """Every metric that the guide for operators names is on the page of metrics."""
    told = set(re.findall(r"purser_[a-z_]+", (PAGE.parent / "operations.md").read_text()))
    assert len(told) > 5
    assert told <= set(re.findall(r"purser_\w+", PAGE.read_text()))
