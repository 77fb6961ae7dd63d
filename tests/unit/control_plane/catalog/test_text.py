"""A catalog's text: exact numbers, positions, and every kind of bad text."""

from decimal import Decimal

import pytest

from control_plane.catalog import text
from control_plane.catalog.text import BadText, Position, read_text
from tests.fuzzing.calm import within_memory


def problems_of(source: bytes) -> list[tuple[int, int, str]]:
    with pytest.raises(BadText) as caught:
        read_text(source)
    return [(problem.at.line, problem.at.column, problem.what) for problem in caught.value.problems]


def test_numbers_are_read_from_their_text() -> None:
    """A decimal keeps every digit that was written, an integer is an integer, a quoted number is a text."""
    data = read_text(b"a: 0.1000000000000000055\nb: 12\nc: '0.5'\nd: -3\ne: .5\n").data
    assert data == {"a": Decimal("0.1000000000000000055"), "b": 12, "c": "0.5", "d": -3, "e": Decimal("0.5")}
    assert not any(isinstance(value, float) for value in data.values())


@pytest.mark.parametrize(
    "word", ["yes", "no", "on", "off", "1:30", "0x1F", "1e5", "2030-01-01", "1_000", ".inf"]
)
def test_words_that_old_yaml_takes_for_something_else_are_texts(word: str) -> None:
    """Only true, false, null and plain decimal numbers are anything but text."""
    assert read_text(f"a: {word}".encode()).data == {"a": word}


def test_constants() -> None:
    """`true`, `false`, `null`, `~` and nothing at all."""
    data = read_text(b"a: true\nb: false\nc: null\nd: ~\ne:\nf: 'true'").data
    assert data == {"a": True, "b": False, "c": None, "d": None, "e": None, "f": "true"}


def test_positions_of_values_by_path() -> None:
    """A value in a list and a map that is not there are found: the latter at what is around it."""
    located = read_text(b"plans:\n  pro:\n    grants:\n      - amount: 5\n")
    assert located.position("plans.pro.grants[0].amount") == Position(4, 9)
    assert located.position("plans.pro.grants[0].unit") == Position(4, 9)
    assert located.position("plans.pro.price.amount") == Position(2, 3)
    assert located.position("") == Position(1, 1)


def test_json_is_read_too_also_with_tabs() -> None:
    """JSON is read by the same reader, with exact numbers and positions."""
    located = read_text(b'{\n\t"a": {"b": 0.30, "c": [1, "x\\u00e9"]}\n}')
    assert located.data == {"a": {"b": Decimal("0.30"), "c": [1, "x\u00e9"]}}
    assert located.position("a.b") == Position(2, 8)


def test_a_name_twice_is_a_problem() -> None:
    """No key silently wins over another; each repeat is named with its line."""
    assert problems_of(b"a: 1\nb: 2\na: 3\nb: 4\n") == [
        (3, 1, "`a` is there twice in one map"),
        (4, 1, "`b` is there twice in one map"),
    ]


def test_a_syntax_error_says_where() -> None:
    """Broken YAML is one problem with line and column."""
    (line, column, what), *others = problems_of(b"a: [1, 2\nb: 3\n")
    assert (line, others) == (2, [])
    assert column >= 1
    assert what.startswith("not YAML")


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (b"", "empty"),
        (b"# nothing\n", "empty"),
        (b"a: \xff\n", "UTF-8"),
        (b"a: \x00\n", "special characters"),
        (b"? [1, 2]\n: 3\n", "must be a text"),
        (b"a: " + b"9" * 100, "80 digits"),
        (b"a: !!python/object:os.system x", ""),
        (b"[" * 2000, ""),
        (b"a: 1\n---\nb: 2\n", "not YAML"),
        (b'a: "\\UFFFFFFFF"', "no character"),
        (b'a: "\\U00110000"', "no character"),
        (b'{"\\ud800": 1}', "surrogate"),
    ],
)
def test_bad_texts(source: bytes, what: str) -> None:
    """Whatever is wrong with a text is a BadText that says so; nothing in it is ever executed."""
    if what:
        assert what in problems_of(source)[0][2]
    else:
        try:
            data = read_text(source).data
        except BadText:
            return
        assert data == {"a": "x"}


def test_aliases_are_bounded() -> None:
    """A text of a kilobyte can not expand without end."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert f"more than {text.MAX_VALUES} values" in problems_of("\n".join(lines).encode())[0][2]


def test_size_is_bounded() -> None:
    """More than 4 MiB is refused unread."""
    assert "larger than" in problems_of(b"#" * (text.MAX_BYTES + 1))[0][2]


def test_too_much_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a text says in one word takes a kilobyte of memory: the reading ends where there are too many."""
    monkeypatch.setattr(text, "NODES_MAX", 2_000)
    with within_memory(mib=6):
        ((line, column, what),) = problems_of(b"[" + b"a," * 20_000 + b"]")
    assert (line, what) == (1, "more than 200000 values, aliases counted each time")
    assert column == 2 * 1_999 + 2


def test_a_problem_can_be_shown_whatever_it_is_about() -> None:
    """Its path has no half characters, which no terminal and no JSON takes."""
    with pytest.raises(BadText) as caught:
        read_text(b'{"\\ud800": "\\ud800"}')
    assert [problem.path.encode() for problem in caught.value.problems] == [b"", b"?"]
