"""What the demo came to: plain data that can be shown, written as JSON and read back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, whether it held, and by which figures."""

    name: str
    held: bool
    figures: str


@dataclass(frozen=True, slots=True)
class Row:
    """One customer of the replay. Amounts are texts, ready to be read."""

    customer: str
    plan: str
    requests: int
    allowed: int
    refused: Mapping[str, int]
    tokens: int
    cost: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class PlayedScene:
    """A scene's title and what was said in it."""

    title: str
    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """All of it. `summary` is the JSON object of `--json`."""

    heading: str
    scenes: Sequence[PlayedScene]
    checks: Sequence[Check]
    rows: Sequence[Row]
    pastes: Sequence[str]
    summary: Mapping[str, Any]

    @property
    def held(self) -> bool:
        """Did every check hold?"""
        return all(check.held for check in self.checks)


def to_json(outcome: Outcome) -> str:
    """For a file."""
    return json.dumps(dataclasses.asdict(outcome), ensure_ascii=False, indent=1) + "\n"


def from_json(text: str) -> Outcome:
    """What `to_json` wrote."""
    plain = json.loads(text)
    return Outcome(
        heading=plain["heading"],
        scenes=[PlayedScene(**scene) for scene in plain["scenes"]],
        checks=[Check(**check) for check in plain["checks"]],
        rows=[Row(**row) for row in plain["rows"]],
        pastes=plain["pastes"],
        summary=plain["summary"],
    )
