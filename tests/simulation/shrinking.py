"""Finds a shorter history that still fails: acts are left out as long as it does (delta debugging, Zeller 2002)."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.simulation.world import Act, Story, simulate

ROUNDS_MAX = 300


def shrink(told: Story, root: Path, template: Path) -> Iterator[str]:
    """Says how it gets on; the last lines are what is left."""
    runs = 0

    def fails(acts: tuple[Act, ...]) -> bool:
        nonlocal runs
        runs += 1
        folder = root / f"shrink-{runs}"
        try:
            return bool(simulate(replace(told, acts=acts), folder, template).violations)
        except Exception:  # noqa: BLE001 it breaks off: a failure, too
            return True
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    acts = told.acts
    size = len(acts) // 2
    while size and runs < ROUNDS_MAX:
        at = 0
        while at < len(acts) and runs < ROUNDS_MAX:
            rest = acts[:at] + acts[at + size :]
            if fails(rest):
                acts = rest
            else:
                at += size
        yield f"{len(acts)} acts after {runs} runs"
        size //= 2
    yield from (str(act) for act in acts)
