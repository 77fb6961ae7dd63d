"""Many faults at once, for minutes: `make soak`."""

from __future__ import annotations

import os
import secrets
import shutil
from random import Random

import pytest

from tests.e2e.histories.faults import FAULTS, impossible
from tests.e2e.histories.installation import Installation
from tests.e2e.histories.soaking import WEAKNESSES, Soak
from tests.servers.programs import REPOSITORY

SECONDS = float(os.environ.get("PURSER_SOAK_SECONDS", "300"))
SEED = os.environ.get("PURSER_SOAK_SEED") or secrets.token_hex(4)


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 900)
def test_everything_at_once() -> None:
    """Kills, cuts, silences, full and failing disks, clocks that jump, each of it at least once: the books match what
    callers were told.
    """
    folder = REPOSITORY / "build" / "soak" / SEED
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"\nPURSER_SOAK_SEED={SEED} PURSER_SOAK_SECONDS={SECONDS:.0f}, in {folder}")
    for name, why in impossible().items():
        print(f"{name} can not happen here: {why}")
    # Their number says how durable they are: by the seed, each weakness meets each durability.
    weaknesses = Random(SEED).sample(WEAKNESSES, len(WEAKNESSES))
    with Installation(folder, weaknesses, replicas=2) as installation:
        kinds = [name for name in FAULTS if name not in impossible()]
        soak = Soak(folder, SEED, installation, kinds)
        try:
            counts = soak.run(SECONDS)
        except AssertionError as error:
            raise AssertionError(f"seed {SEED}; everything is in {folder}\n{error}") from error
    for what, number in counts.items():
        print(f"{number:8} {what}")
    shutil.rmtree(folder)
