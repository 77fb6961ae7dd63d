"""`make bench`: measures a sidecar against a bare `grpc.server`, in about eight minutes."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.benchmarks import report as reporting
from tests.benchmarks.measure import Pace
from tests.benchmarks.run import Plan, run

_PLAIN_WIDTH = 200  # columns; a file does not wrap


def main(arguments: list[str] | None = None) -> None:
    """Prints the table; what is going on goes to standard error. The status says nothing about goals."""
    options = _parser().parse_args(arguments)
    if options.installation is not None and options.installation.is_dir():
        # Every server of this run, the bare one with its pool too.
        os.environ.update(PYTHONPATH=str(options.installation.resolve()), PYTHONSAFEPATH="1")
    plan = Plan(
        pace=Pace(rounds=options.rounds, seconds=options.seconds, in_flight=options.in_flight),
        customers=options.customers,
        starts=options.starts,
        threads=options.threads,
    )
    with tempfile.TemporaryDirectory(prefix="purser-bench-") as folder:
        report = run(plan, Path(folder), lambda doing: print(f"… {doing}", file=sys.stderr, flush=True))
    if options.json:
        options.json.write_text(json.dumps(reporting.as_json(report), indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(reporting.markdown(report))
    reporting.print_table(report, Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="rounds of each kind of call (11)")
    parser.add_argument("--seconds", type=float, default=0.7, help="seconds per round (0.7)")
    parser.add_argument("--in-flight", type=int, default=32, help="calls at a time (32)")
    parser.add_argument(
        "--threads",
        type=int,
        default=4,
        help="threads of the bare server: as many as the sidecar reads with (4)",
    )
    parser.add_argument(
        "--customers", type=int, default=1000, help="customers for the measure of memory (1000)"
    )
    parser.add_argument("--starts", type=int, default=3, help="starts of each kind (3)")
    parser.add_argument(
        "--installation",
        type=Path,
        metavar="FOLDER",
        help="an unpacked wheel to measure instead of the working tree, if it is there",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    return parser


if __name__ == "__main__":
    main()
