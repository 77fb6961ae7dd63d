"""Who calls in the replay, on which plan, and what each of their requests will look like. All of it from the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from clients.cli.dev.sample import LlmRequest

EVENT: Final = "llm_inference"
FEATURE: Final = "chat"
MODEL: Final = "text-gen-v3"
INCLUDED: Final = "allowance:chat"
"""The balance of what a plan includes."""
ESTIMATES: Final = (64, 256, 1024, 2048, 8192)
"""What an app would ask for as the most output tokens."""
CHUNK_TOKENS: Final = 6
MOST_CHUNKS: Final = 8
UNDERESTIMATED: Final = 0.04
WINDOWS: Final = {"8192": 72, "": 12, "32768": 11, "131072": 5}
"""Context windows and how often each is used; empty: the event does not say."""


@dataclass(frozen=True, slots=True)
class Person:
    """A customer of the replay. `share`: how many of the requests, relative to the others."""

    customer_id: str
    plan: str
    share: int


PEOPLE: Final = (
    Person("acorn", "free", 4),
    Person("birch", "free", 7),
    Person("cedar", "payg", 14),
    Person("dune", "payg", 8),
    Person("elm", "pro", 10),
    Person("fjord", "pro", 7),
    Person("gale", "hybrid", 16),
    Person("heron", "hybrid", 10),
    Person("iris", "prepaid", 14),
    Person("jade", "prepaid", 10),
)


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One LLM request to come: an estimate to reserve, then cumulative totals to settle, the last one final."""

    reservation_id: str
    customer_id: str
    sidecar: int
    context_tokens: int
    estimated_tokens: int
    generated_tokens: tuple[int, ...]
    """Output tokens so far, chunk by chunk."""
    window: str
    attributes: dict[str, str] = field(default_factory=lambda: {"model": MODEL})

    def measures(self, output_tokens: int) -> dict[str, str]:
        """The event's measures at this much output."""
        measures = {"input_tokens": str(self.context_tokens), "output_tokens": str(output_tokens)}
        return {**measures, "context_window": self.window} if self.window else measures

    @property
    def estimate(self) -> dict[str, str]:
        """What is reserved."""
        return self.measures(self.estimated_tokens)

    @property
    def total(self) -> dict[str, str]:
        """What will have been used in the end."""
        return self.measures(self.generated_tokens[-1])


def plan_calls(requests: Sequence[LlmRequest], *, seed: int, sidecars: int) -> list[PlannedCall]:
    """Hands each request to a customer and a sidecar, in order."""
    chance = random.Random(f"people {seed}")  # noqa: S311 -- reproducible on purpose
    people = chance.choices(PEOPLE, weights=[person.share for person in PEOPLE], k=len(requests))
    return [
        _planned(request, person, number, chance, seed=seed, sidecars=sidecars)
        for number, (request, person) in enumerate(zip(requests, people, strict=True), 1)
    ]


def _planned(
    request: LlmRequest, person: Person, number: int, chance: random.Random, *, seed: int, sidecars: int
) -> PlannedCall:
    output = request.generated_tokens
    enough = next((most for most in ESTIMATES if most >= output), output)
    short = chance.random() < UNDERESTIMATED
    return PlannedCall(
        reservation_id=f"{person.customer_id}-{seed}-{number:05d}",
        customer_id=person.customer_id,
        sidecar=chance.randrange(sidecars),
        context_tokens=request.context_tokens,
        estimated_tokens=output // 2 if short else enough,
        generated_tokens=chunks(output),
        window=chance.choices(list(WINDOWS), list(WINDOWS.values()))[0],
    )


def chunks(output_tokens: int) -> tuple[int, ...]:
    """Running totals of a streamed output, the last one all of it: a chunk per 6 tokens, at most 8."""
    count = max(1, min(MOST_CHUNKS, output_tokens // CHUNK_TOKENS))
    return tuple(output_tokens * number // count for number in range(1, count + 1))
