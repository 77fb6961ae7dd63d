"""Runs histories: in a folder of their own, one after the other or in several processes."""

import gc
import multiprocessing
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.simulation.plane import make_template, use_direct_sqlite
from tests.simulation.sabotages import sabotaged
from tests.simulation.story import Story, story
from tests.simulation.world import Result, simulate

_MEMORY: Final = Path("/dev/shm")  # where there is one: nothing here is to survive

LONGEST_SECONDS: Final = 180
"""Of real time. A history takes one or two, and a minute where many run beside it."""
AGAIN_SECONDS: Final = 5
"""Somebody may have caught it."""
HISTORIES_PER_PROCESS: Final = 100
"""What a history leaves behind in its process is a few megabytes."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How histories are run. `sabotage`: what is broken first; `kinds` of faults: none, a few by the seed."""

    sabotage: str = ""
    kinds: tuple[str, ...] = ()
    log: bool = False


class TookTooLong(BaseException):
    """A history has come to a place that it does not leave. Not to be taken for an error of what is tested."""


def _took_too_long(*_: Any) -> None:
    raise TookTooLong(f"it took more than {LONGEST_SECONDS} s")


@contextmanager
def workshop() -> Iterator[tuple[Path, Path]]:
    """A folder that is gone after the block, and an empty database in it."""
    folder = tempfile.mkdtemp(prefix="purser-simulation-", dir=_MEMORY if _MEMORY.is_dir() else None)
    try:
        template = Path(folder) / "template.sqlite3"
        template.write_bytes(_empty_database())
        yield Path(folder), template
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _empty_database() -> bytes:
    """Migrated once a process."""
    use_direct_sqlite()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.sqlite3"
        make_template(path)
        return path.read_bytes()


def run(told: Story, manner: Manner) -> Result:
    """One history."""
    # What is there for good need not be looked through again and again; what a history leaves goes with its end.
    gc.freeze()
    gc.disable()
    signal.signal(signal.SIGALRM, _took_too_long)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS, AGAIN_SECONDS)
    try:
        with workshop() as (root, template), sabotaged(manner.sabotage):
            try:
                return simulate(told, root / "history", template, log=manner.log)
            except (Exception, TookTooLong) as error:  # noqa: BLE001 whatever it was, it is what became of the history
                return Result([f"it broke off: {error!r}"])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.collect()
        gc.enable()


def run_seed(seed: int, manner: Manner) -> tuple[int, Result]:
    """The history of a seed."""
    return seed, run(story(seed, manner.kinds), manner)


def run_seeds(seeds: Sequence[int], manner: Manner, *, jobs: int) -> Iterator[tuple[int, Result]]:
    """Many, as they end."""
    if jobs == 1:
        yield from (run_seed(seed, manner) for seed in seeds)
        return
    # Not `multiprocessing.Pool`: where one of its processes is killed it waits for ever.
    size = jobs * HISTORIES_PER_PROCESS
    for some in (seeds[at : at + size] for at in range(0, len(seeds), size)):
        # Nor `max_tasks_per_child`: with Python 3.11 the last process that ends may not be replaced (gh-115634).
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                for done in as_completed([pool.submit(run_seed, seed, manner) for seed in some]):
                    yield done.result()
            finally:
                pool.shutdown(cancel_futures=True)
