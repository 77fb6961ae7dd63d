"""A limit is lowered for everybody, and the next decision shows it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import purser
from clients.cli.dev import catalog_text
from clients.cli.dev.callers import Callers
from clients.cli.dev.people import EVENT, FEATURE, MODEL
from clients.cli.dev.scenes.world import WINDOW, TookTooLong, World

LIMIT_PATH: Final = "plans.free.entitlements.chat.limit"
NEW_LIMIT: Final = 1000
LIMIT_MEASURES: Final = {"input_tokens": "412", "output_tokens": "1083", "context_window": WINDOW}
SHOWN_SECONDS: Final = 10.0
ASK_SECONDS: Final = 0.003


@dataclass(frozen=True, slots=True)
class Lowered:
    """A limit was lowered for everybody."""

    revision: int
    before: str
    after: str
    milliseconds: tuple[int, ...]
    """From the answer to the publish until each sidecar's decision showed it; 0 when it did before that."""
    min_revision_milliseconds: int
    min_revision_reason: str


def lowered(world: World) -> Lowered:
    """Publishes the catalog with a lower limit for all, while every sidecar is asked again and again."""
    customer, callers = world.actor("limit"), world.callers
    before, *_ = [_ask(callers, sidecar, customer) for sidecar in range(len(callers))]
    text = catalog_text.replaced(world.catalog, LIMIT_PATH, str(NEW_LIMIT))
    shown: dict[int, tuple[float, str]] = {}

    def ask(sidecar: int) -> None:
        deadline = time.monotonic() + SHOWN_SECONDS
        while sidecar not in shown and time.monotonic() < deadline:
            answer = _ask(callers, sidecar, customer)
            if not answer:
                shown[sidecar] = (time.monotonic(), str(answer.reason))
            time.sleep(ASK_SECONDS)  # the servers need the processors too

    with ThreadPoolExecutor(len(callers)) as pool:
        asking = [pool.submit(ask, sidecar) for sidecar in range(len(callers))]
        revision = world.books.publish(text, move="all")
        published_at = time.monotonic()
        began = time.monotonic()
        answer = _ask(callers, 0, customer, min_revision=revision)
        min_revision = round(1000 * (time.monotonic() - began))
        for future in asking:
            future.result()
    if len(shown) < len(callers):
        raise TookTooLong(f"after {SHOWN_SECONDS:.0f} s not every sidecar shows revision {revision}")
    milliseconds = tuple(max(0, round(1000 * (at - published_at))) for at, _ in shown.values())
    after = shown[0][1]
    world.stage.say(f"free: 100,000 → {NEW_LIMIT:,} tokens, published with --move all: revision {revision}")
    world.stage.say(
        f"{customer}: {before.reason} before, {after} at all sidecars {max(milliseconds)} ms after the publish"
    )
    world.stage.say(f"asked with --min-revision {revision}: {answer.reason} after {min_revision} ms")
    return Lowered(revision, str(before.reason), after, milliseconds, min_revision, str(answer.reason))


def _ask(callers: Callers, sidecar: int, customer: str, **more: object) -> purser.Decision:
    """May the customer use as many tokens as the new limit does not allow?"""
    return callers.check(
        sidecar,
        customer,
        feature=FEATURE,
        event_name=EVENT,
        measures=LIMIT_MEASURES,
        attributes={"model": MODEL},
        **more,
    )
