"""Settings: where they come from, and which are not safe together."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from control_plane.config import is_loopback, settings_from
from control_plane.usage.lateness import KEPT_MIN, LATE_MAX
from sidecar.config import settings_from as sidecar_settings_from


def test_flags_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag wins over a variable, a variable over the file, the file over the default."""
    file = tmp_path / "purser.yaml"
    file.write_text("database: sqlite:///file\ngrpc: 127.0.0.1:1\nhttp: 127.0.0.1:1\n")
    monkeypatch.setenv("PURSER_CONFIG", str(file))
    monkeypatch.setenv("PURSER_GRPC", "127.0.0.1:2")
    monkeypatch.setenv("PURSER_HTTP", "127.0.0.1:2")
    settings = settings_from(http="127.0.0.1:3", database=None)
    assert (settings.database, settings.grpc, settings.http) == (
        "sqlite:///file",
        "127.0.0.1:2",
        "127.0.0.1:3",
    )
    assert settings.database_pool == 20


@pytest.mark.parametrize(
    "flags",
    [
        {"http": "0.0.0.0:7081"},
        {"http": "0.0.0.0:7081", "admin_token_file": "t"},
        {"http": "0.0.0.0:7081", "plaintext": True},
        {"grpc": "0.0.0.0:7080"},
        {"grpc": "0.0.0.0:7080", "plaintext": True},
        {"tls_certificate": "c"},
        {"tls_client_authority": "c"},
        {"http": "7081"},
        {"http": "127.0.0.1:99999"},
    ],
)
def test_what_is_not_safe_is_refused(flags: dict[str, object]) -> None:
    """Other addresses than loopback need a token and TLS; half a certificate is none."""
    with pytest.raises(ValidationError):
        settings_from(**flags)


@pytest.mark.parametrize(
    "flags",
    [
        {"sweep_every": "PT0S"},
        {"lease_ttl": "PT0S"},
        {"grace": "-PT1S"},
        {"keys_kept": "P41D"},
        {"feed_kept": "PT0S"},
    ],
)
def test_spans_have_bounds(flags: dict[str, object]) -> None:
    """A span of nothing, or keys forgotten while facts of their time may still come, is refused by name."""
    with pytest.raises(ValidationError, match=next(iter(flags))):
        settings_from(**flags)


def test_keys_outlive_what_any_sidecar_takes() -> None:
    """The latest fact that a sidecar may be told to take, and then a week without the control plane."""
    with pytest.raises(ValidationError, match="late_window"):
        sidecar_settings_from(late_window=LATE_MAX + timedelta(seconds=1))
    assert sidecar_settings_from(late_window=LATE_MAX).late_window + timedelta(days=7) < KEPT_MIN
    assert settings_from().keys_kept >= KEPT_MIN


def test_with_token_and_tls_it_may_listen_anywhere() -> None:
    """With both, or behind a mesh that says so, any address is taken."""
    tls = {"tls_certificate": "c", "tls_key": "k"}
    assert settings_from(http="0.0.0.0:7081", admin_token_file="t", **tls).http == "0.0.0.0:7081"
    assert settings_from(grpc="0.0.0.0:7080", sync_token_file="t", plaintext=True).grpc == "0.0.0.0:7080"


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("example.org:1", False),
    ],
)
def test_loopback(address: str, loopback: bool) -> None:
    """Only this machine's own addresses are loopback."""
    assert is_loopback(address) is loopback
