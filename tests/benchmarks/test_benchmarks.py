"""The bench itself, a little of everything: it runs, and what it says is whole. It asserts no speed."""

from pathlib import Path

import pytest

from tests.benchmarks.__main__ import main
from tests.benchmarks.raw import Run
from tests.benchmarks.report.goals import goals


@pytest.mark.timeout(900)  # it is dozens of processes, and the machine may be busy
def test_the_bench_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One quick run on real processes gives tables, raw data, page and plots, with every row in them."""
    main(["--quick", f"--report={tmp_path}"])
    run = Run.model_validate_json((tmp_path / "benchmarks/run.json").read_text())
    measured = {(each.name, each.uploading) for each in run.calls if each.ratios}
    verbs = ("CheckAccess", "BatchCheckAccess × 50")
    calls = {f"{verb}{kind}" for verb in verbs for kind in ("", ", always new")}
    calls |= {
        f"ConsumeUsage, {kind}" for kind in ("process_crash", "always new, process_crash", "power_loss")
    }
    bare = {("the same, ThreadPoolExecutor", None), ("the same, each request durable", None)}
    assert measured == {(call, uploading) for call in calls for uploading in (False, True)} | bare
    unmeasured = [goal.name for goal in goals(run) if goal.holds is None]
    assert all("Cerbos" in name for name in unmeasured), "that needs npm; the others need nothing"
    assert {ladder.name for ladder in run.ladders} == {
        "bare grpc.server",
        "CheckAccess",
        "ConsumeUsage, power_loss",
    }
    assert all(step.latencies.count for ladder in run.ladders for step in ladder.steps)
    assert run.start_seconds.keys() == {"with a snapshot", "without"}
    assert {path.name for path in (tmp_path / "benchmarks").glob("*.svg")} == {
        f"{name}.svg" for name in ("goals", "ceilings", "ladders", "populations", "fleet")
    }
    out, page = capsys.readouterr().out, (tmp_path / "benchmarks.md").read_text()
    for text in (*calls, "bytes", "commit", run.machine["commit"]):
        assert text in out
        assert text in page
