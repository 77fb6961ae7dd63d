"""The file of settings: read, or refused in words."""

from pathlib import Path

import pytest

from control_plane.config import settings_from as control_plane_settings
from sidecar.config import settings_from as sidecar_settings
from sidecar.runtime.settings_file import BadSettingsFile


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that PURSER_CONFIG names; not there yet."""
    path = tmp_path / "purser.yaml"
    monkeypatch.setenv("PURSER_CONFIG", str(path))
    return path


def test_it_stands_below_flags_and_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What neither a flag nor a variable says is taken from the file; an empty file says nothing."""
    file.write_text("grpc: 127.0.0.1:1\nread_threads: 7\nname: file\n")
    monkeypatch.setenv("PURSER_NAME", "environment")
    settings = sidecar_settings(grpc="127.0.0.1:2")
    assert (settings.grpc, settings.name, settings.read_threads) == ("127.0.0.1:2", "environment", 7)
    file.write_text("")
    assert sidecar_settings().read_threads == 4


def test_threads_that_write_suit_the_durability(file: Path) -> None:
    """The longer an acknowledgement takes, the more threads wait for it; a number that is given is taken."""
    file.write_text("")
    assert sidecar_settings().write_threads == 24
    assert sidecar_settings(durability="process_crash").write_threads == 16
    assert sidecar_settings(durability="remote").write_threads == 64
    assert sidecar_settings(durability="remote", write_threads=5).write_threads == 5
    file.write_text("durability: process_crash")
    assert sidecar_settings().write_threads == 16


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "which can not be read: No such file"),
        ("a: [", "line 1, column 5, is not YAML"),
        ("a: 1\n\tb: 2", "line 2, column 1, is not YAML"),
        ("name: 2001-99-99", "is not YAML"),
        ("read_threads: " + "9" * 5000, "is not YAML"),
        ('name: "\\UFFFFFFFF"', "is not YAML"),
        ("name: " + "[" * 5000, "is not YAML"),
        ("a: &a [x]\nb: [*a, *a]", "line 2, column 5, is not YAML"),
        ("just words", "write NAME: VALUE"),
        ("lease_tll: PT5S", "lease_tll: no setting of this process; known are .*"),
    ],
)
def test_what_can_not_be_meant_is_refused(file: Path, text: str | None, says: str) -> None:
    """No file, no YAML, no mapping, a name that is no setting: an error with the file's name, never ignored."""
    if text is not None:
        file.write_text(text)
    for settings_from in (sidecar_settings, control_plane_settings):
        with pytest.raises(BadSettingsFile, match=says) as refused:
            settings_from()
        assert str(file) in str(refused.value)
