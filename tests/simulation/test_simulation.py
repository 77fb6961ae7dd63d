"""Histories keep every promise, the same seed is the same history, and each sabotage is noticed."""

import re
import subprocess
import sys

import pytest

from tests.simulation import shrinking
from tests.simulation.callers import Callers
from tests.simulation.faults import Faults
from tests.simulation.offers import Offers
from tests.simulation.sabotages import SABOTAGES
from tests.simulation.story import FAULTS, OFFERS, VERBS, story

AT_ONCE = 25


def simulation(*options: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: it takes the place of threads, logs and the database's driver."""
    command = [sys.executable, "-m", "tests.simulation", "--jobs", "1", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("first", range(0, 200, AT_ONCE))
def test_histories_keep_every_promise(first: int) -> None:
    ended = simulation("--seeds", f"{first}-{first + AT_ONCE - 1}")
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", SABOTAGES)
def test_a_sabotage_is_noticed(name: str) -> None:
    """Exit status 1 and a seed: a promise was broken, the one that it is about. 0: nobody noticed. Without it the same
    history keeps every promise.
    """
    first, breaks, kinds = SABOTAGES[name].seed, SABOTAGES[name].breaks, SABOTAGES[name].kinds
    ended = simulation("--sabotage", name, "--seeds", f"{first}-{first + 199}", "--until-first")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    seed = re.match(r"seed (\d+):", ended.stdout)
    assert seed, ended.stdout + ended.stderr
    assert "it broke off" not in ended.stdout, ended.stdout
    assert re.search(breaks, ended.stdout), ended.stdout
    honest = simulation("--seeds", seed[1], *(["--faults", *kinds] if kinds else []))
    assert honest.returncode == 0, honest.stdout + honest.stderr


def test_a_seed_is_the_same_history_every_time() -> None:
    once, again = (simulation("--seeds", "3", "--log").stdout for _ in range(2))
    assert len(once.splitlines()) > 100
    assert once == again


def test_a_history_is_shrunk_to_what_it_fails_by() -> None:
    """Two acts of many are to blame, and only together."""
    guilty = {story(3).acts[10], story(3).acts[40]}
    *_, first, second = shrinking.shrink(story(3), lambda shorter: guilty <= set(shorter.acts))
    assert {first, second} == {str(act) for act in guilty}


def test_stories_differ_by_their_seeds_and_never_otherwise() -> None:
    assert story(1) == story(1)
    assert story(1) != story(2)


def test_a_story_has_the_faults_that_are_asked_for() -> None:
    """And none besides, but for what must have happened before."""
    happened = {act.what for seed in range(20) for act in story(seed, ["restore"]).acts}
    assert happened & {*FAULTS, "back_up", "keep_disk"} == {"restore", "back_up"}


def test_every_act_is_done_by_somebody() -> None:
    """A story names what there is: a verb, a fault or an offer."""
    who = (Callers, Faults, Offers)
    for name in (*VERBS, *FAULTS, *OFFERS, "keep_disk", "back_up"):
        assert sum(hasattr(one, name) for one in who) == 1, name
