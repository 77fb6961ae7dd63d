"""Where the story is shown: a live screen on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

FRAMES_PER_SECOND: Final = 10
FRAME_LINES: Final = 7
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
            Text.assemble((self._heading, "bold"), ("  ", ""), (f"{seconds:4.0f} s", "dim")),
            Text(""),
        ]
        room = max(2, self._console.height - FRAME_LINES - len(self.scenes))
        for number, scene in enumerate(self.scenes, 1):
            parts += draw_scene(number, scene, spinner=self._spinner, most_lines=room)
            if scene.state == "playing" and self._tick:
                parts.append(Padding(Text(self._tick, "cyan", no_wrap=True), (0, 0, 0, 6)))
        if self._total:
            parts += [Text(""), _bar(self._done, self._total)]
        parts += [Text(""), _counted(self._counters())]
        return Panel(Group(*parts), border_style="dim", padding=(0, 1), height=self._console.height)


def draw_scene(
    number: int, scene: Scene, *, spinner: RenderableType | None = None, most_lines: int | None = None
) -> list[RenderableType]:
    """A scene's heading and its lines: with `most_lines` only while it plays, and then the last ones."""
    title = Text.from_markup(f"[bold]{number}[/]  {escape(scene.title)}", style=_STYLES[scene.state])
    mark: RenderableType = Text(_MARKS[scene.state], style="green" if scene.state == "played" else "dim")
    if scene.state == "playing" and spinner is not None:
        mark = spinner
    heading = Table.grid(padding=(0, 1))
    heading.add_row(mark, title)
    lines = scene.lines
    if most_lines is not None:
        lines = lines[-most_lines:] if scene.state == "playing" else []
    return [heading, *(Padding(Text(line, no_wrap=most_lines is not None), (0, 0, 0, 6)) for line in lines)]


_MARKS: Final = {"waiting": "·", "playing": "▸", "played": "✓"}
_STYLES: Final = {"waiting": "dim", "playing": "bold cyan", "played": ""}


def _bar(done: int, total: int) -> RenderableType:
    bar = Table.grid(padding=(0, 2), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right")
    bar.add_row(ProgressBar(total=total, completed=done), f"{done:,} of {total:,} requests")
    return bar


def _counted(counters: Sequence[tuple[str, str]]) -> RenderableType:
    parts = [part for label, value in counters for part in ((f"{value} ", "bold"), (f"{label}   ", "dim"))]
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


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
