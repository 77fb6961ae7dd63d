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
from typing import Any, Final

import prometheus_client
from pydantic_settings import BaseSettings

from control_plane.config import Settings as ControlPlane
from sidecar.config import Settings as Sidecar
from sidecar.runtime.metrics import Metrics

FOLDER: Final = Path(__file__).resolve().parent
_MADE_UP: Final[dict[object, str]] = {socket.gethostname: "the host's name"}
_MADE: Final = "<!-- Written by `make docs` from the code; changes belong there. -->"


def configuration() -> str:
    """Every setting of both processes."""
    return "\n".join(
        [
            _MADE,
            "# Configuration",
            "",
            "Flags over environment variables over a YAML file, named by `--config` or `PURSER_CONFIG`, which",
            "has the names of the first column as keys. What has no flag of its own (`--help`) is given as",
            "`--set NAME=VALUE`. Spans of time are ISO 8601 (`PT30S`, `P1D`). Port 0 takes a free one and says which.",
            "",
            *_settings("Sidecar", "purser sidecar serve", Sidecar),
            *_settings("Control plane", "purser control-plane serve", ControlPlane),
        ]
    )


def _settings(title: str, command: str, settings: type[BaseSettings]) -> Iterator[str]:
    prefix = settings.model_config.get("env_prefix", "")
    yield f"## {title}: `{command}`"
    yield ""
    yield "| setting | environment variable | default | |"
    yield "|---|---|---|---|"
    for name, field in settings.model_fields.items():
        assert field.description, f"{name} says nothing of itself"
        default = _MADE_UP.get(field.default_factory) or _shown(field.default)
        yield f"| `{name}` | `{prefix}{name.upper()}` | {default} | {_cell(field.description)} |"
    yield ""


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
    """Every metric of the sidecar's hold."""
    registry = prometheus_client.CollectorRegistry()
    Metrics(registry)
    lines = [
        _MADE,
        "# Metrics",
        "",
        "What a sidecar exports at `/metrics`, besides the process's own.",
        "",
        "| metric | type | |",
        "|---|---|---|",
    ]
    for family in sorted(registry.collect(), key=lambda each: each.name):
        suffix = "_total" if family.type == "counter" else ""
        lines.append(f"| `{family.name}{suffix}` | {family.type} | {_cell(family.documentation)} |")
    return "\n".join([*lines, ""])


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
