"""Where the story is shown: a live screen on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

FRAMES_PER_SECOND: Final = 10
FRAME_LINES: Final = 9
"""Of a full screen: what is not scenes and their lines."""

Counters = Callable[[], Sequence[tuple[str, str]]]


@dataclass(slots=True)
class Scene:
    """One part of the story and what was said in it."""

    title: str
    lines: list[str] = field(default_factory=list)
    state: str = "waiting"
    """`waiting`, `playing`, `played`."""


class Stage(Protocol):
    """What the story speaks to. Never raises; call it from one thread."""

    def scene(self, title: str) -> None:
        """The next scene begins; it must be one of those announced."""

    def say(self, line: str) -> None:
        """Something that was found, to stay."""

    def tick(self, line: str) -> None:
        """Something that changes by the moment; empty when it is over."""

    def progress(self, done: int, total: int) -> None:
        """How far the replay is."""


class PlainStage:
    """Prints each line as it comes. Nothing moves, nothing is coloured."""

    def __init__(self, console: Console, titles: Sequence[str]) -> None:
        """Knows the scenes in their order."""
        self.scenes = [Scene(title) for title in titles]
        self._console = console
        self._tenths = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _finish(self.scenes)

    def scene(self, title: str) -> None:
        """A heading."""
        number = _begin(self.scenes, title)
        self._console.print(f"\n{number}. {title}", markup=False)
        self._tenths = 0

    def say(self, line: str) -> None:
        """A line below it."""
        _say(self.scenes, line)
        self._console.print(f"   {line}", markup=False)

    def tick(self, line: str) -> None:
        """Nothing: a file is no place for what changes by the moment."""

    def progress(self, done: int, total: int) -> None:
        """A line at every further quarter."""
        quarters = 4 * done // total
        if quarters > self._tenths:
            self._tenths = quarters
            self._console.print(f"   {done:,} of {total:,} requests", markup=False)


class LiveStage:
    """Draws the whole story anew ten times a second, on the terminal's other screen."""

    def __init__(self, console: Console, titles: Sequence[str], heading: str, counters: Counters) -> None:
        """`counters` is read at each frame, from another thread."""
        self.scenes = [Scene(title) for title in titles]
        self._heading, self._counters = heading, counters
        self._began = time.monotonic()
        self._tick, self._done, self._total = "", 0, 0
        self._console = console
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(
            console=console, screen=True, get_renderable=self._draw, refresh_per_second=FRAMES_PER_SECOND
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _finish(self.scenes)
        self._live.stop()

    def scene(self, title: str) -> None:
        """Moves the mark on."""
        self._tick = ""
        self._total = 0
        _begin(self.scenes, title)

    def say(self, line: str) -> None:
        """A line below the scene."""
        _say(self.scenes, line)

    def tick(self, line: str) -> None:
        """The line that changes."""
        self._tick = line

    def progress(self, done: int, total: int) -> None:
        """The bar."""
        self._done, self._total = done, total

    def _draw(self) -> RenderableType:
        seconds = time.monotonic() - self._began
        parts: list[RenderableType] = [
            _one_line((f"{seconds:3.0f} s  ", "dim"), (self._heading, "bold")),
            Text(""),
        ]
        shown = share_room(self.scenes, self._console.height - FRAME_LINES - len(self.scenes))
        for number, (scene, lines) in enumerate(zip(self.scenes, shown, strict=True), 1):
            parts += draw_scene(number, scene.title, scene.state, lines, spinner=self._spinner, wrap=False)
            if scene.state == "playing" and self._tick:
                parts.append(Padding(_one_line((self._tick, "cyan")), _INDENT))
        if self._total:
            parts += [Text(""), _bar(self._done, self._total)]
        counted = [(f"{value} ", "bold", f"{label}   ") for label, value in self._counters()]
        parts += [Text(""), _one_line(*(part for v, s, n in counted for part in ((v, s), (n, "dim"))))]
        return Panel(Group(*parts), border_style="dim", padding=(0, 1), height=self._console.height)


def share_room(scenes: Sequence[Scene], room: int) -> list[list[str]]:
    """Which lines of each scene are shown, so many in all.

    The last ones of the scene that plays, then the first ones of those before it, the latest scene first.
    """
    shown: dict[int, list[str]] = {}
    for number in sorted(range(len(scenes)), key=lambda number: (scenes[number].state != "playing", -number)):
        lines = scenes[number].lines
        playing = scenes[number].state == "playing"
        shown[number] = lines[-room:] if playing and room > 0 else lines[: max(0, min(room, _LINES_AFTER))]
        room -= len(shown[number])
    return [shown[number] for number in range(len(scenes))]


def draw_scene(
    number: int,
    title: str,
    state: str,
    lines: Sequence[str],
    *,
    spinner: RenderableType | None = None,
    wrap: bool = True,
) -> list[RenderableType]:
    """A scene's heading, and lines below it."""
    mark: RenderableType = Text(_MARKS[state], style="green" if state == "played" else "dim")
    if state == "playing" and spinner is not None:
        mark = spinner
    heading = Table.grid(padding=(0, 1))
    heading.add_row(mark, Text.assemble((str(number), "bold"), f"  {title}", style=_STYLES[state]))
    return [
        heading,
        *(Padding(Text(line) if wrap else _one_line((line, "")), _INDENT, expand=False) for line in lines),
    ]


def _one_line(*parts: tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


_INDENT: Final = (0, 0, 0, 5)
_LINES_AFTER: Final = 2
"""Of a scene that is over."""
_MARKS: Final = {"waiting": "·", "playing": "▸", "played": "●"}
_STYLES: Final = {"waiting": "dim", "playing": "bold cyan", "played": ""}


def _bar(done: int, total: int) -> RenderableType:
    bar = Table.grid(padding=(0, 2), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right")
    bar.add_row(ProgressBar(total=total, completed=done), f"{done:,} of {total:,} requests")
    return bar


def _begin(scenes: Sequence[Scene], title: str) -> int:
    number = next(number for number, scene in enumerate(scenes, 1) if scene.title == title)
    for scene in scenes[: number - 1]:
        scene.state = "played"
    scenes[number - 1].state = "playing"
    return number


def _say(scenes: Sequence[Scene], line: str) -> None:
    for scene in scenes:
        if scene.state == "playing":
            scene.lines.append(line)


def _finish(scenes: Sequence[Scene]) -> None:
    for scene in scenes:
        if scene.state == "playing":
            scene.state = "played"
