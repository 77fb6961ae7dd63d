"""Changes one value in a catalog file and leaves every other character as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

_INSTALLED: Final = Path(__file__).resolve().with_name("example.yaml")
_IN_THE_REPOSITORY: Final = Path(__file__).resolve().parents[3] / "examples" / "catalogs" / "example.yaml"

EXAMPLE: Final = _INSTALLED if _INSTALLED.exists() else _IN_THE_REPOSITORY


class NoSuchValue(KeyError):
    """The catalog has no value at this path."""


def replaced(text: str, path: str, value: str) -> str:
    """The text with another scalar at a path such as `plans.free.entitlements.chat.limit`.

    Raises:
        NoSuchValue: there is none.
    """
    node = yaml.compose(text, Loader=yaml.BaseLoader)
    for name in path.split("."):
        node = _child(node, name, path)
    if not isinstance(node, yaml.ScalarNode):
        raise NoSuchValue(path)
    return text[: node.start_mark.index] + value + text[node.end_mark.index :]


def _child(node: yaml.Node | None, name: str, path: str) -> yaml.Node:
    for key, child in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == name:
            found: yaml.Node = child
            return found
    raise NoSuchValue(path)
