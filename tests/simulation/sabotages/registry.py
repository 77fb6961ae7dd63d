"""Every sabotage by its name."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, NamedTuple


class Sabotage(NamedTuple):
    """How the code is broken inside a block, and the faults under which that shows."""

    broken: Callable[[], AbstractContextManager[None]]
    kinds: tuple[str, ...]
    seed: int
    """Where to look first: it showed there once."""
    breaks: str
    """An expression that finds what it breaks among the violations: who notices it must notice that. Empty: something
    else gives it away first.
    """


SABOTAGES: Final[dict[str, Sabotage]] = {}


def sabotaged(name: str) -> AbstractContextManager[None]:
    """Breaks the code inside the block; an empty name: leaves it as it is."""
    return SABOTAGES[name].broken() if name else nullcontext()


def sabotage(*kinds: str, seed: int = 0, breaks: str = "") -> Callable[[Callable[[], Iterator[None]]], None]:
    """Enters one under its name. No kinds: under none, or any."""

    def enter(make: Callable[[], Iterator[None]]) -> None:
        SABOTAGES[make.__name__] = Sabotage(contextmanager(make), kinds, seed, breaks)

    return enter
