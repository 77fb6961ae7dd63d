"""Writes the references in this folder from the code that they describe: `make docs`.

`--check` writes nothing, and exits with 1 if a page is not what it would write.
"""
# ruff: noqa: INP001, T201 -- a script that stands beside what it writes, and tells what it did.

import argparse
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import annotated_types
from prometheus_client import CollectorRegistry
from pydantic import AfterValidator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from control_plane.config import Settings as ControlPlane
from control_plane.db.engine import create_engine
from control_plane.db.unit_of_work import Database
from control_plane.faults import Faults
from control_plane.feed.poller import Poller
from control_plane.metrics import Metrics as ControlPlaneMetrics
from sidecar.config import Settings as Sidecar
from sidecar.config import write_threads
from sidecar.http.metrics import EdgeMetrics
from sidecar.outbox.port import Durability
from sidecar.runtime.clock import ManualClock
from sidecar.runtime.metrics import Metrics
from sidecar.view.memory import View
from sidecar.view.pulse import Pulse

FOLDER: Final = Path(__file__).resolve().parent
_MADE_UP: Final[dict[object, str]] = {
    socket.gethostname: "the host's name",
    write_threads: ", ".join(
        f"`{write_threads({'durability': kind})}` with `{kind.value}`" for kind in Durability
    ),
}
_MADE: Final = "<!-- Written by `make docs` from the code; changes belong there. -->"


def configuration() -> str:
    """Every setting of both processes."""
    return "\n".join(
        [
            _MADE,
            "# Configuration",
            "",
            "Flags over environment variables over a YAML file, named by `--config` or `PURSER_CONFIG`, which",
            "has the names of the first column as keys, those of the process that reads it and no others. What has no",
            "flag of its own (`--help`) is given as `--set NAME=VALUE`. Spans of time are ISO 8601 (`PT30S`, `P1D`).",
            "Port 0 takes a free one and says which.",
            "",
            *_settings("Sidecar", "purser sidecar serve", Sidecar),
            *_settings("Control plane", "purser control-plane serve", ControlPlane),
        ]
    )


def _settings(title: str, command: str, settings: type[BaseSettings]) -> Iterator[str]:
    prefix = settings.model_config.get("env_prefix", "")
    yield f"## {title}: `{command}`"
    yield ""
    yield "| setting | environment variable | default | may be | |"
    yield "|---|---|---|---|---|"
    for name, field in settings.model_fields.items():
        assert field.description, f"{name} says nothing of itself"
        default = _MADE_UP.get(field.default_factory) or _shown(field.default)
        about = _cell(field.description)
        yield f"| `{name}` | `{prefix}{name.upper()}` | {default} | {_bounds(field)} | {about} |"
    yield ""


def _bounds(field: FieldInfo) -> str:
    """What the setting takes: the words, or the least and the most."""
    kind = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{word.value}`" for word in kind)
    if kind is bool:
        return "`true`, `false`"
    if kind in {Path, Path | None}:
        return "a path"
    found = {type(each): each for each in field.metadata}
    if kind is str:
        longest = found.get(annotated_types.MaxLen)
        limit = f" of at most {longest.max_length} characters" if longest else ""
        return "an address" if AfterValidator in found else f"a text{limit}"
    least, most = found.get(annotated_types.Ge), found.get(annotated_types.Le)
    assert least is not None, f"{kind} without a least value: a span or a number must have one"
    return f"{_plain(least.ge)} to {_plain(most.le)}" if most else f"{_plain(least.ge)} or more"


def _plain(value: Any) -> str:
    return _span(value) if isinstance(value, timedelta) else str(value)


def _shown(value: Any) -> str:
    match value:
        case None | "" | ():
            return "none"
        case Enum():
            return f"`{value.value}`"
        case bool():
            return f"`{str(value).lower()}`"
        case timedelta():
            return _span(value)
        case _:
            return f"`{value}`"


def _span(value: timedelta) -> str:
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if value.total_seconds() >= seconds and not value.total_seconds() % seconds:
            return f"{int(value.total_seconds() // seconds)} {unit}"
    return f"{value.total_seconds():g} s"


def metrics() -> str:
    """Every metric of both processes."""
    lines = [
        _MADE,
        "# Metrics",
        "",
        "What each process exports at `/metrics`, in Prometheus form.",
        "",
    ]
    for title, registry in (("Sidecar", _of_the_sidecar()), ("Control plane", _of_the_control_plane())):
        lines += [f"## {title}", "", "| metric | type | |", "|---|---|---|", *_metrics(registry), ""]
    return "\n".join(lines)


def _of_the_sidecar() -> CollectorRegistry:
    registry, clock = CollectorRegistry(), ManualClock()
    Metrics(registry)
    view = View(bound=1, in_use_max=1, pulse=Pulse(), now=clock.now, pinned=lambda _customer: False)
    EdgeMetrics(registry, view=view, pools=(), prepared=int, clock=clock)
    return registry


def _of_the_control_plane() -> CollectorRegistry:
    registry = CollectorRegistry()
    database = Database(create_engine("sqlite:///never-opened.sqlite3"))
    ControlPlaneMetrics(registry, Poller(database), Faults())
    return registry


def _metrics(registry: CollectorRegistry) -> Iterator[str]:
    for family in sorted(registry.collect(), key=lambda each: each.name):
        suffix = "_total" if family.type == "counter" else ""
        yield f"| `{family.name}{suffix}` | {family.type} | {_cell(family.documentation)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


PAGES: Final[dict[str, Callable[[], str]]] = {"configuration.md": configuration, "metrics.md": metrics}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, write in PAGES.items():
        page, text = FOLDER / name, write()
        if not page.exists() or page.read_text() != text:
            stale.append(name)
            if not check:
                page.write_text(text)
    if stale:
        print(("stale: " if check else "written: ") + ", ".join(stale))
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
