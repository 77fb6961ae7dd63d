"""`python -m tests.simulation`: runs histories by their seeds, and says which ones broke a promise."""

import argparse
import json
import os
import sys
import time
from typing import Final

from tests.simulation.runs import Manner, run, run_seeds
from tests.simulation.sabotages import SABOTAGES
from tests.simulation.shrinking import shrink
from tests.simulation.story import FAULTS, OFFERS, story

PROGRESS_EVERY: Final = 100


def main(arguments: list[str] | None = None) -> int:
    """0: every promise was kept; 1: not."""
    options = _parser().parse_args(arguments)
    if os.environ.get("PYTHONHASHSEED") != "0":
        # A seed is the same history everywhere only where sets are in the same order.
        again = [sys.executable, "-m", "tests.simulation", *(arguments or sys.argv[1:])]
        os.execve(sys.executable, again, os.environ | {"PYTHONHASHSEED": "0"})
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    kinds = options.faults or (SABOTAGES[options.sabotage].kinds if options.sabotage else ())
    manner = Manner(options.sabotage, tuple(kinds), options.log)
    how = f"--faults {' '.join(kinds)} " if kinds else ""
    how += f"--sabotage {options.sabotage} " if options.sabotage else ""
    began, failed, broken = time.monotonic(), list[int](), list[str]()
    for done, (seed, result) in enumerate(run_seeds(seeds, manner, jobs=min(options.jobs, len(seeds))), 1):
        if result.violations:
            failed.append(seed)
            broken.append(kind_of(result.violations[0]))
        print("\n".join(result.log), end="\n" if result.log else "")
        if options.json:
            print(json.dumps({"seed": seed, "violations": result.violations, **result.counts}), flush=True)
        elif result.violations:
            print(f"seed {seed}:", *result.violations[:10], sep="\n    ")
            print(f"    again: python -m tests.simulation --seeds {seed} {how}--log", flush=True)
        if done % PROGRESS_EVERY == 0 or done == len(seeds) or (failed and options.until_first):
            each = (time.monotonic() - began) / done
            text = f"{done} of {len(seeds)} histories, {len(failed)} with a broken promise; {each:.2f} s each"
            print(text, file=sys.stderr, flush=True)
        if failed and options.until_first:
            break
    if options.shrink and failed:
        seed, kind = failed[0], broken[0]
        print(f"seed {seed}, as short as it still fails by “{kind}”:")
        told = story(seed, manner.kinds)
        fails = lambda shorter: kind in map(kind_of, run(shorter, manner).violations)  # noqa: E731 its only use
        for line in shrink(told, fails):
            print(line, flush=True)
    return 1 if failed else 0


def kind_of(violation: str) -> str:
    """Which promise it is about: a shorter history that breaks another one is another matter."""
    return violation.partition(" ")[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0-99", help="FIRST-LAST, or one (0-99)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument("--sabotage", choices=["", *SABOTAGES], default="", help="break the code first")
    parser.add_argument(
        "--faults", nargs="+", choices=(*FAULTS, *OFFERS), default=[], help="of these kinds (by the seed)"
    )
    parser.add_argument("--until-first", action="store_true", help="stop at the first broken promise")
    parser.add_argument("--log", action="store_true", help="print what happened")
    parser.add_argument(
        "--shrink", action="store_true", help="of the first that fails, find a shorter one that does"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON per history")
    return parser


if __name__ == "__main__":
    sys.exit(main())
