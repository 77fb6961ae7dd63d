"""`python -m clients.cli.dev.picture OUTCOME.json PICTURE.svg`: the picture of the README, from a recorded demo.

Record one with `purser dev --demo --exit --record OUTCOME.json`.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Final

from rich.console import Console

from clients.cli.dev import outcome, report
from clients.cli.dev.outcome import Outcome

COLUMNS: Final = 104
TITLE: Final = "make run"
UNIQUE_ID: Final = "purser-demo"
"""Of the styles inside the SVG: fixed, so that the same outcome gives the same file."""


def draw(recorded: Outcome) -> str:
    """The demo's last screen as an SVG; the same text for the same outcome."""
    console = Console(
        record=True,
        width=COLUMNS,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        highlight=False,
    )
    console.print(report.full(recorded))
    return console.export_svg(title=TITLE, unique_id=UNIQUE_ID)


def main(source: Path, target: Path) -> None:
    """Reads an outcome, writes its picture."""
    target.write_text(draw(outcome.from_json(source.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
