"""Finds a shorter history that still fails: acts are left out as long as it does (delta debugging, Zeller 2002)."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from tests.simulation.story import Story

RUNS_MAX: Final = 300


def shrink(told: Story, fails: Callable[[Story], bool]) -> Iterator[str]:
    """Says how it gets on; the last lines are what is left."""
    runs = 0
    acts = told.acts
    size = len(acts) // 2
    while size and runs < RUNS_MAX:
        at = 0
        while at < len(acts) and runs < RUNS_MAX:
            rest = acts[:at] + acts[at + size :]
            runs += 1
            if fails(replace(told, acts=rest)):
                acts = rest
            else:
                at += size
        yield f"{len(acts)} acts after {runs} runs"
        size //= 2
    yield from (str(act) for act in acts)
