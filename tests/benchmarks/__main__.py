"""`make bench`: measures sidecars and control planes beside bare servers and SQL, in about 25 minutes.

`--quick` does a little of everything, in about a minute: to see that it works, not to judge. `--only` measures some.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tests.benchmarks.bench import QUICK, WHOLE, Plan
from tests.benchmarks.raw import Run
from tests.benchmarks.report import page
from tests.benchmarks.report.table import print_tables
from tests.benchmarks.run import ROWS, run

_PLAIN_WIDTH = 220  # columns; a file does not wrap


def main(arguments: list[str] | None = None) -> None:
    """Prints tables; what is going on goes to standard error. The status is 1 where a row did not come to an end: it
    says nothing about goals.
    """
    options = _parser().parse_args(arguments)
    if options.installation is not None and options.installation.is_dir():
        # Every server of this run, the bare one with its pool too.
        os.environ.update(PYTHONPATH=str(options.installation.resolve()), PYTHONSAFEPATH="1")
    if options.from_raw:
        found = Run.model_validate_json(options.from_raw.read_text())
    else:
        with tempfile.TemporaryDirectory(prefix="purser-bench-") as folder:
            found = run(_plan(options), Path(folder), _say, options.only)
    if options.json:
        options.json.write_text(page.raw_text(found))
    if options.report:
        for path in page.write(found, options.report):
            _say(f"wrote {path}")
    print_tables(found, Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH))
    if found.failed:
        sys.exit(f"did not come to an end: {', '.join(found.failed)}")


def _say(doing: str) -> None:
    print(f"… {doing}", file=sys.stderr, flush=True)


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else WHOLE
    given = {
        name: getattr(options, name)
        for name in ("rounds", "seconds", "in_flight", "threads")
        if getattr(options, name) is not None
    }
    return replace(plan, pace=replace(plan.pace, **given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a little of everything")
    parser.add_argument(
        "--only", nargs="+", choices=ROWS, default=(), metavar="ROW", help=f"of {', '.join(ROWS)}"
    )
    parser.add_argument("--rounds", type=int, help=f"rounds of each kind of call ({WHOLE.pace.rounds})")
    parser.add_argument("--seconds", type=float, help=f"seconds per round ({WHOLE.pace.seconds})")
    parser.add_argument("--in-flight", type=int, help=f"calls at a time ({WHOLE.pace.in_flight})")
    parser.add_argument(
        "--threads",
        type=int,
        help=f"threads of the bare server: as many as the sidecar reads with ({WHOLE.pace.threads})",
    )
    parser.add_argument(
        "--installation",
        type=Path,
        metavar="FOLDER",
        help="an unpacked wheel to measure instead of the working tree, if it is there",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw data there")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="write page, plots and raw data there: docs, or elsewhere",
    )
    parser.add_argument(
        "--from-raw", type=Path, metavar="FILE", help="measure nothing: write the report of this raw data"
    )
    return parser


if __name__ == "__main__":
    main()
