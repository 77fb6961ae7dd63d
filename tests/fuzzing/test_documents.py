"""Whatever stands in a file that people write, it is read, or refused in words that name the place; within bounds."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from clients.cli.__main__ import build
from clients.cli.dev.sample import BadTrace, read_trace
from control_plane.catalog.publish import read_draft
from control_plane.catalog.text import BadText, TextProblem
from control_plane.config import settings_from as control_plane_settings
from sidecar.config import settings_from as sidecar_settings
from sidecar.runtime.settings_file import BadSettingsFile
from sidecar.runtime.wording import wrong_settings
from tests.fuzzing.calm import within_process_memory
from tests.fuzzing.effort import cases

EXAMPLE: Final = Path("examples/catalogs/example.yaml").read_bytes()
GROWTH_MIB: Final = 100
"""So much more memory may a page of text ever need, and a few hundred of them, one after the other."""
LAUGHS: Final = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (letter, letter, b", ".join([b"*%c" % (letter - 1)] * 9)) for letter in range(98, 110)
)
"""A page of text that stands for more values than there are atoms in a sidecar."""
MERGED_LAUGHS: Final = b"a: &a {x: 1, y: 2}\n" + b"".join(
    b"%c: &%c {<<: [%s]}\n" % (letter, letter, b", ".join([b"*%c" % (letter - 1)] * 9))
    for letter in range(98, 110)
)
ODD_TEXTS: Final[tuple[bytes, ...]] = (
    b"",
    b"\0",
    b"\t",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\r",
    b"\xe2\x80\xa8",
    b"*a",
    b"&a",
    b"<<: *a",
    b"!!python/object/apply:os.system [x]",
    b"!!binary x",
    b"!!timestamp x",
    b"{",
    b"]",
    b"? ",
    b"- ",
    b"|",
    b"---\n",
    b"%YAML 9.9\n",
    b'"\\UFFFFFFFF"',
    b'"\\ud800"',
    b"1e400",
    b".inf",
    b".nan",
    b"0x" + b"f" * 50,
    b"9" * 79,
    b"9" * 5_000,
    b"-0",
    b"1_000",
    b"190:20:30",
    b"2001-99-99",
    b"on",
    b"~",
    b"P1M",
    b"P99999999999Y",
    b"PT0S",
    b"P-1D",
    b"purser: catalog/v2",
    b"[" * 60,
    LAUGHS,
)


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """Whatever is read, memory is bounded."""
    with within_process_memory(mib=GROWTH_MIB):
        yield


@st.composite
def edited(draw: st.DrawFn, original: bytes) -> bytes:
    """The text with a few places struck out, replaced, doubled or moved."""
    text = original
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(text)))
        end = min(len(text), begin + draw(st.sampled_from([0, 1, 1, 3, 20, 200])))
        other = draw(st.integers(0, len(text)))
        instead = draw(
            st.one_of(
                st.sampled_from(ODD_TEXTS),
                st.binary(max_size=4),
                st.just(text[other : other + 40]),
                st.just(text[begin:end] * 3),
            )
        )
        text = text[:begin] + instead + text[end:]
    return text


def is_read_or_refused(text: bytes) -> None:
    """A catalog, or problems with places that are in the text."""
    problems: tuple[TextProblem, ...] = ()
    try:
        read_draft(text)
    except BadText as error:
        problems = error.problems
        assert problems
    breaks = sum(text.count(mark) for mark in (b"\n", b"\r", b"\xc2\x85", b"\xe2\x80"))
    for problem in problems:
        assert 1 <= problem.at.line <= breaks + 2
        assert problem.at.column >= 1
        assert problem.what
        assert problem.path.encode() is not None


@cases(250)
@given(edited(EXAMPLE))
def test_an_edited_catalog_is_read_or_refused(text: bytes) -> None:
    """A catalog into which somebody has slipped, at any place, with any key of the keyboard."""
    is_read_or_refused(text)


@cases(400)
@given(st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(ODD_TEXTS), max_size=5).map(b" ".join)))
def test_any_bytes_are_no_catalog(text: bytes) -> None:
    """What is no catalog at all."""
    with pytest.raises(BadText):
        read_draft(text)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        MERGED_LAUGHS,
        b"[" * 100_000,
        b"{a: " * 50_000,
        b"- " * 50_000,
        b"a: " + b"9" * 100_000,
        b"a: &a [*a]",
        b"&a " * 50_000,
        b'{"a": ' * 50_000,
    ],
    ids=lambda text: text[:12].decode(),
)
def test_a_bomb_is_refused(text: bytes) -> None:
    """A page that stands for a library, levels without end, numbers without end: refused, in bounded memory."""
    with pytest.raises(BadText):
        read_draft(text)


SETTINGS: Final = b"grpc: 127.0.0.1:0\nhttp: 127.0.0.1:0\nlog_level: INFO\nlog_json: true\nname: deck\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that PURSER_CONFIG names; of other variables only the machine's own are left."""
    for name in [name for name in os.environ if name.startswith("PURSER_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "settings.yaml"
    monkeypatch.setenv("PURSER_CONFIG", str(path))
    return path


@cases(400)
@given(st.one_of(edited(SETTINGS), st.binary(max_size=60)))
def test_any_settings_file_is_read_or_refused(file: Path, text: bytes) -> None:
    """Settings, or an error that names the file or the setting; both servers alike."""
    file.write_bytes(text)
    for settings_from in (sidecar_settings, control_plane_settings):
        try:
            settings_from()
        except BadSettingsFile as error:
            assert str(file) in str(error)  # noqa: PT017
        except ValidationError as error:
            assert all(problem for _, problem in wrong_settings(error))  # noqa: PT017


@pytest.mark.parametrize("text", [LAUGHS, MERGED_LAUGHS, b"name: " + LAUGHS, b"[" * 100_000])
@pytest.mark.parametrize("settings_from", [sidecar_settings, control_plane_settings])
def test_a_bomb_is_no_settings_file(file: Path, text: bytes, settings_from: Callable[[], object]) -> None:
    """It is refused, in bounded memory."""
    file.write_bytes(text)
    with pytest.raises(BadSettingsFile):
        settings_from()


TRACE: Final = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,4808,10\nt,1,2\n"


@cases(300)
@given(st.one_of(edited(TRACE), st.binary(max_size=100)))
def test_any_trace_is_read_or_refused(tmp_path: Path, text: bytes) -> None:
    """Requests, or an error that names the file."""
    trace = tmp_path / "trace.csv"
    trace.write_bytes(text)
    try:
        assert read_trace(trace)
    except BadTrace as error:
        assert str(trace) in str(error)  # noqa: PT017


WORDS: Final = (
    *(
        "check",
        "consume",
        "report",
        "reserve",
        "settle",
        "release",
        "catalog",
        "trace",
        "sidecar",
        "migrate",
    ),
    *("validate", "show", "publish", "serve", "--json", "--explain", "--final", "--customer", "--measure"),
    *(
        "--attribute",
        "--key",
        "--quantity",
        "--reservation",
        "--set",
        "--config",
        "--trace",
        "--seed",
        "--move",
    ),
    *(
        "",
        "-",
        "--",
        "=",
        "a=b",
        "NaN",
        "-1",
        "9" * 400,
        "\udcff",
        "\N{RIGHT-TO-LEFT OVERRIDE}",
        "/",
        ".",
        "x" * 3_000,
    ),
    *("grpc=1", "[red]x[/]", "[/]", "{}", "%s", "\n", "--help", "acme", "127.0.0.1:1"),
)
runner = CliRunner()


@cases(100)
@given(st.lists(st.sampled_from(WORDS), max_size=7))
def test_any_command_line_is_answered(file: Path, words: list[str]) -> None:
    """Help, an answer or an error in words; never a traceback. Nobody serves, and no server is there to talk to."""
    file.write_bytes(b"nothing_like_this: 1")
    done = runner.invoke(
        build(words), words, env={"PURSER_SIDECAR": "127.0.0.1:1", "PURSER_CONTROL_PLANE": "x"}
    )
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
    assert done.exit_code in {0, 1, 2}, (words, done.output)
    assert done.exit_code == 0 or done.output or done.stderr


@cases(40)
@given(text=st.one_of(edited(EXAMPLE), st.sampled_from(ODD_TEXTS), st.just(b'{"\\ud800": "\\ud800"}')))
@pytest.mark.parametrize("words", ["catalog validate", "catalog validate --json", "catalog show"])
def test_any_catalog_file_is_validated(tmp_path: Path, words: str, text: bytes) -> None:
    """The command says what is wrong with it, for people and for programs, whatever characters are in it."""
    catalog = tmp_path / "catalog.yaml"
    catalog.write_bytes(text)
    command = [*words.split(), str(catalog)]
    done = runner.invoke(build(command), command)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in {0, 1}
    if "--json" in words:
        answer: dict[str, Any] = json.loads(done.stdout)
        assert answer["valid"] == (done.exit_code == 0)
