"""A catalog's text, YAML or JSON, as plain data in which every value knows its line and column."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

from control_plane.db.types import is_storable
from sidecar.runtime.watched_yaml import WatchedLoader

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
MAX_VALUES = 200_000
NODES_MAX = 2 * MAX_VALUES
"""Of the text: names are nodes as well, and no values."""


_INTEGER = re.compile(r"[-+]?[0-9]+")
_DECIMAL = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)")
_CONSTANTS: Mapping[str, bool | None] = {
    "true": True,
    "True": True,
    "false": False,
    "False": False,
    "null": None,
    "~": None,
    "": None,
}


@dataclass(frozen=True, slots=True)
class Position:
    """Where something stands; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class TextProblem:
    """One thing that is wrong with a text, where, and how to mend it."""

    at: Position
    path: str
    what: str
    mend: str


class BadText(ValueError):
    """The text is not a catalog. Holds every problem that was found, in the order of the text."""

    def __init__(self, problems: Iterable[TextProblem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.at.line, p.at.column)))
        super().__init__(
            "; ".join(f"line {p.at.line}, column {p.at.column}: {p.what}" for p in self.problems)
        )


@dataclass(frozen=True, slots=True)
class LocatedData:
    """Plain data (dict, list, str, int, Decimal, bool, None) and the position of each value and key, by path."""

    data: Any
    positions: Mapping[str, Position]
    """By path, as in `plans.pro.grants[0].amount`; the root's is empty."""

    def position(self, path: str) -> Position:
        """Of the value at the path, or of the nearest one around it that is there."""
        while path and path not in self.positions:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.positions.get(path, Position(1, 1))

    def problem(self, path: str, what: str, mend: str) -> TextProblem:
        """What is wrong with the value at the path."""
        return TextProblem(self.position(path), path, what, mend)


def read_text(source: bytes) -> LocatedData:
    """Reads YAML 1.2's core, of which JSON is a part. Raises BadText."""
    text = _decode(source)
    try:
        root = _compose(text)
    except yaml.MarkedYAMLError as error:
        raise BadText((_syntax_problem(error),)) from error
    except yaml.YAMLError as error:
        raise BadText(
            (_problem(1, 1, str(error), "write plain UTF-8 text without control characters"),)
        ) from error
    if root is None:
        raise BadText((_problem(1, 1, "the catalog is empty", "begin with `purser: catalog/v1`"),))
    reading = _Reading()
    data = reading.value(root, "", 0)
    if reading.problems:
        raise BadText(reading.problems)
    return LocatedData(data, reading.positions)


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    except BadText:
        raise
    except (ValueError, OverflowError) as error:
        # Of an escape such as \UFFFFFFFF: no character has that number.
        raise BadText((loader.unreadable(),)) from error
    finally:
        loader.dispose()
    return node


class _Loader(WatchedLoader):
    """Gives up as soon as there is too much: a node takes a hundred times the memory of its text."""

    _values = 0

    def look(self, mark: yaml.Mark, depth: int, *, is_alias: bool) -> None:
        line, column = mark.line + 1, mark.column + 1
        self._values += 1
        if self._values > NODES_MAX:
            raise BadText((_too_many(line, column),))
        if depth > MAX_DEPTH:
            raise BadText((_too_deep(line, column),))

    def unreadable(self) -> TextProblem:
        """What stands where the reading stopped."""
        what = "an escape that stands for no character"
        return _problem(self.line + 1, self.column + 1, what, "write the character itself")


@dataclass(slots=True)
class _Reading:
    """Turns nodes into data; collects positions and problems on the way."""

    positions: dict[str, Position] = field(default_factory=dict)
    problems: list[TextProblem] = field(default_factory=list)
    values: int = 0

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        self.values += 1
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self.positions.setdefault(path, Position(line, column))
        if self.values > MAX_VALUES:
            if self.values == MAX_VALUES + 1:
                self.problems.append(_too_many(line, column))
            return None
        if depth > MAX_DEPTH:
            self.problems.append(_too_deep(line, column))
            return None
        match node:
            case yaml.MappingNode():
                return self._mapping(node, path, depth)
            case yaml.SequenceNode():
                return [self.value(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(node.value)]
            case yaml.ScalarNode():
                return self._scalar(node, path)
            case _:
                raise TypeError(f"{node!r} is no node of YAML")

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(_problem(line, column, "a name must be a text", "write a plain word"))
                continue
            key = self._text(key_node, path)
            below = f"{path}.{key}" if path else key
            if key in data:
                what = f"`{key}` is there twice in one map"
                self.problems.append(_problem(line, column, what, "remove one of them", below))
                continue
            self.positions[below] = Position(line, column)
            data[key] = self.value(value_node, below, depth + 1)
        return data

    def _text(self, node: yaml.ScalarNode, path: str) -> str:
        """As it can be kept. JSON may write a character as two escapes, the halves of a surrogate pair."""
        text: str = node.value
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        if not is_storable(text):
            line, column = node.start_mark.line + 1, node.start_mark.column + 1
            what = "a text with NUL, or with half of a surrogate pair"
            self.problems.append(_problem(line, column, what, "remove it", path))
            text = text.encode(errors="replace").decode()  # it names further problems, which are to be shown
        return text

    def _scalar(self, node: yaml.ScalarNode, path: str) -> str | int | Decimal | bool | None:
        text = self._text(node, path)
        if node.style is not None or node.tag == "!":
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INTEGER.fullmatch(text) or _DECIMAL.fullmatch(text):
            if len(text) > 80:
                line, column = node.start_mark.line + 1, node.start_mark.column + 1
                self.problems.append(
                    _problem(line, column, "a number of more than 80 digits", "shorten it", path)
                )
                return None
            return int(text) if _INTEGER.fullmatch(text) else Decimal(text)
        return text


def _decode(source: bytes) -> str:
    if len(source) > MAX_BYTES:
        raise BadText((_problem(1, 1, f"larger than {MAX_BYTES} bytes", "split the catalog"),))
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = source[: error.start].decode("utf-8", "replace")
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        raise BadText((_problem(line, column, "not UTF-8 text", "save the file as UTF-8"),)) from error
    if "\t" in text and text.lstrip().startswith("{") and _is_json(text):
        # JSON may be indented with tabs, YAML may not. Valid JSON has none inside its strings.
        text = text.replace("\t", " ")
    return text


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _syntax_problem(error: yaml.MarkedYAMLError) -> TextProblem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    what = error.problem or error.context or "not YAML"
    if error.context and error.problem:
        what = f"{error.problem} ({error.context})"
    return _problem(line, column, f"not YAML: {what}", "check indentation, quotes and brackets up to here")


def _too_many(line: int, column: int) -> TextProblem:
    what = f"more than {MAX_VALUES} values, aliases counted each time"
    return _problem(line, column, what, "split the catalog, or use fewer aliases")


def _too_deep(line: int, column: int) -> TextProblem:
    return _problem(line, column, f"nested more than {MAX_DEPTH} levels deep", "write it flatter")


def _problem(line: int, column: int, what: str, mend: str, path: str = "") -> TextProblem:
    return TextProblem(Position(line, column), path, what, mend)
