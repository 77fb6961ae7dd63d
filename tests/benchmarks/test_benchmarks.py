"""The bench itself, with tiny numbers: it runs, and what it says is whole. It asserts no speed."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import main

TINY = ["--rounds=1", "--seconds=0.2", "--in-flight=4", "--customers=20", "--starts=1"]


@pytest.mark.timeout(400)  # it is a dozen of processes, and the machine may be busy
def test_the_bench_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run on real processes gives the table, JSON and Markdown, with every call, memory and start-up in them."""
    raw, page = tmp_path / "bench.json", tmp_path / "bench.md"
    main([*TINY, f"--json={raw}", f"--markdown={page}"])
    found = json.loads(raw.read_text())
    measured = {(each["name"], each["uploading"]) for each in found["results"] if each["ratio"]}
    verbs = ("CheckAccess", "BatchCheckAccess × 50")
    calls = {f"{verb}{kind}" for verb in verbs for kind in ("", ", always new")}
    calls |= {
        f"ConsumeUsage, {kind}" for kind in ("process_crash", "always new, process_crash", "power_loss")
    }
    bare = {("the same, ThreadPoolExecutor", None)}
    assert measured == {(call, uploading) for call in calls for uploading in (False, True)} | bare
    assert found["start_seconds"].keys() == {"with a snapshot", "without"}
    assert found["bytes_per_customer"] > 0
    out = capsys.readouterr().out
    for text in (*calls, "bytes", "commit", found["machine"]["commit"]):
        assert text in out
        assert text in page.read_text()
