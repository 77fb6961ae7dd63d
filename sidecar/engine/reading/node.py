"""A value in a document with the path to it: every read gives a value of the right type, and records what was wrong."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final, TypeVar

from sidecar.engine.periods import NotASpan, Span
from sidecar.engine.values import (
    MAX_DIGITS,
    ZERO,
    AmountOutOfRange,
    NotANumber,
    format_decimal,
    parse_decimal,
    to_scaled_exactly,
)

MAX_NAME: Final = 100
MAX_TEXT: Final = 1024
MAX_PROBLEMS: Final = 1000
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)

Choice = TypeVar("Choice", bound=StrEnum)
Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong where, and how to mend it."""

    path: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.path or 'the document'}: {self.what}; {self.mend}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """How to mend an unknown word: the nearest known one, or all of them."""
    names = sorted(known)
    near = get_close_matches(word[:MAX_NAME], names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return "known are " + ", ".join(names[:20]) if names else "there is none yet"


def shown(value: object) -> str:
    """A value in a message: short, whatever it is."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        return "a huge number"
    text = format_decimal(value) if isinstance(value, Decimal) and _plain(value) else str(value)
    return repr(text if len(text) <= 60 else text[:57] + "…")


def _plain(value: Decimal) -> bool:
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -MAX_DIGITS and value.adjusted() < MAX_DIGITS


class Node:
    """A value, its path, and the list that problems go to. The value may be anything: it comes from outside."""

    __slots__ = ("path", "problems", "value")

    def __init__(self, value: Any, path: str, problems: list[Problem]) -> None:
        self.value = value
        self.path = path
        self.problems = problems

    def problem(self, what: str, mend: str) -> None:
        """Records what is wrong here."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(self.path, what, mend))

    def at(self, step: str | int, value: Any) -> "Node":
        """A node below this one."""
        below = f"{self.path}[{step}]" if isinstance(step, int) else f"{self.path}.{step}".lstrip(".")
        return Node(value, below, self.problems)

    def fields(self, *known: str, required: Sequence[str] = ()) -> dict[str, "Node"]:
        """The fields of a mapping with known keys; unknown and missing ones are problems."""
        found: dict[str, Node] = {}
        for key, node in self._pairs():
            if key in known:
                found[key] = node
            else:
                node.problem(f"{shown(key)} is not known here", did_you_mean(key, known))
        for key in required:
            if key not in found and isinstance(self.value, Mapping):
                self.problem(f"{key!r} is missing", f"write {key}: …")
        return found

    def entries(self) -> list[tuple[str, "Node"]]:
        """A mapping of names that the author chose; a name that is none is a problem."""
        found = []
        for key, node in self._pairs():
            if len(key) > MAX_NAME or not _NAME.fullmatch(key):
                node.problem(
                    f"{shown(key)} is no name",
                    "use letters, digits, _ . and -, at most 100, not . or - first",
                )
            else:
                found.append((key, node))
        return found

    def texts_to(self) -> list[tuple[str, "Node"]]:
        """A mapping whose keys are any texts: values of attributes, names of measures."""
        found = []
        for key, node in self._pairs():
            if not key or len(key) > MAX_TEXT:
                node.problem("the key is empty or too long", f"use 1 to {MAX_TEXT} characters")
            else:
                found.append((key, node))
        return found

    def _pairs(self) -> list[tuple[str, "Node"]]:
        if not isinstance(self.value, Mapping):
            self.problem(f"{shown(self.value)} is not a mapping", "write key: value pairs")
            return []
        found = []
        for key, value in self.value.items():
            if isinstance(key, str):
                found.append((key, self.at(key[:MAX_NAME], value)))
            else:
                self.at(shown(key), value).problem(f"the key {shown(key)} is not text", "put it in quotes")
        return found

    def items(self) -> list["Node"]:
        """The items of a list."""
        if not isinstance(self.value, list | tuple):
            self.problem(f"{shown(self.value)} is not a list", "write [first, second]")
            return []
        return [self.at(i, item) for i, item in enumerate(self.value)]

    def one_or_more(self) -> list["Node"]:
        """The items of a list, or the one value that stands in its place."""
        return self.items() if isinstance(self.value, list | tuple) else [self]

    def text(self, default: str = "") -> str:
        """A text of 1 to 1024 characters."""
        if isinstance(self.value, str) and 0 < len(self.value) <= MAX_TEXT:
            return self.value
        self.problem(f"{shown(self.value)} is not a text of 1 to {MAX_TEXT} characters", "put it in quotes")
        return default

    def texts(self) -> tuple[str, ...]:
        """One text or a list of them, in the order written; a repeat is a problem."""
        found: list[str] = []
        for node in self.one_or_more():
            text = node.text()
            if text in found:
                node.problem(f"{text!r} stands there twice", "take one away")
            elif text:
                found.append(text)
        return tuple(found)

    def truth(self, *, default: bool = False) -> bool:
        """A bool."""
        if isinstance(self.value, bool):
            return self.value
        self.problem(f"{shown(self.value)} is neither true nor false", "write true or false, without quotes")
        return default

    def number(self, *, least: Decimal = ZERO, default: Decimal = ZERO) -> Decimal:
        """An exact number of at most 60 digits, from `least`. A float is a problem: its digits are lost already."""
        value = self.value
        if isinstance(value, float):
            self.problem("a binary float has lost its exact digits", "write the number in quotes")
            return default
        if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
            self.problem(f"{shown(value)} is not a number", "write a plain decimal number")
            return default
        try:
            if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
                raise NotANumber("it has too many digits")
            if isinstance(value, Decimal) and not (value.is_finite() and _plain(value)):
                raise NotANumber("it has too many digits")
            plain = format(value, "f") if isinstance(value, Decimal) else str(value)
            number = parse_decimal(plain)
        except NotANumber:
            self.problem(
                f"{shown(value)} is not a plain decimal number of 60 digits", "write for instance 0.003"
            )
            return default
        if number < least:
            self.problem(f"{shown(value)} is below {format_decimal(least)}", "write a larger number")
            return default
        return number

    def positive(self, default: Decimal = Decimal(1)) -> Decimal:
        """An exact number above zero."""
        before = len(self.problems)
        number = self.number(default=default)
        if number == 0 and len(self.problems) == before:
            self.problem("zero makes no sense here", "write a number above 0")
            return default
        return number

    def scaled(self, scale: int, *, least: Decimal = ZERO) -> Decimal:
        """An exact number that fits 63 bits at the scale, without a digit lost."""
        number = self.number(least=least)
        try:
            to_scaled_exactly(number, scale)
        except AmountOutOfRange as error:
            self.problem(str(error), "write fewer digits, or give the unit or meter another scale")
            return ZERO
        return number

    def whole(self, *, least: int, most: int, default: int) -> int:
        """A whole number between two bounds, both included."""
        number = self.number(least=Decimal(-(10**18)), default=Decimal(default))
        if number != number.to_integral_value() or not least <= number <= most:
            self.problem(f"{shown(self.value)} is no whole number from {least} to {most}", "write one")
            return default
        return int(number)

    def span(self, default: Span | None = None) -> Span | None:
        """An ISO 8601 duration."""
        text = self.text("")
        if not text:
            return default
        try:
            return Span.parse(text)
        except NotASpan as error:
            self.problem(str(error), "write for instance P1M, P7D or PT1M")
            return default

    def choice(self, kind: type[Choice], default: Choice) -> Choice:
        """One word of a few."""
        word = self.value
        known = [member.value for member in kind]
        if isinstance(word, str) and word in known:
            return kind(word)
        self.problem(f"{shown(word)} is none of {', '.join(known)}", did_you_mean(str(word), known))
        return default

    def reference(self, things: Mapping[str, Thing], what: str) -> Thing | None:
        """The thing of that name; None, and a problem, if there is none."""
        name = self.text("")
        if name and name not in things:
            self.problem(f"there is no {what} {shown(name)}", did_you_mean(name, things))
        return things.get(name)
