"""`purser control-plane serve`, `sidecar serve`, `migrate`: settings that are wrong are said to be, by name."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from pydantic_settings import BaseSettings
from typer.testing import CliRunner

from clients.cli.__main__ import build
from control_plane import config as control_plane
from sidecar import config as sidecar

runner = CliRunner()


@pytest.mark.parametrize("server", ["control-plane", "sidecar"])
def test_an_unknown_setting(server: str) -> None:
    """A setting that does not exist is an error, and those that do are named: nothing is silently ignored."""
    done = runner.invoke(build([server]), [server, "serve", "--set", "leese_ttl=5"])
    assert done.exit_code == 1
    assert "leese_ttl=5" in done.stderr
    assert "grpc" in done.stderr


@pytest.mark.parametrize(
    ("server", "settings"), [("control-plane", control_plane.Settings), ("sidecar", sidecar.Settings)]
)
def test_help_shows_the_defaults(server: str, settings: type[BaseSettings]) -> None:
    """What `--help` calls the default is the setting's own."""
    command = typer.main.get_command(build([server]))
    serve = command.commands[server].commands["serve"]  # type: ignore[attr-defined]
    shown = {
        option.name: option.show_default for option in serve.params if isinstance(option.show_default, str)
    }
    shown["control_plane" if "upstream" in shown else ""] = shown.pop("upstream", "")
    shown.pop("", None)
    assert shown.pop("name", "the host's name") == "the host's name"
    assert {"grpc", "http"} < shown.keys()
    assert shown == {name: str(settings.model_fields[name].default) for name in shown}


@pytest.mark.parametrize("server", ["control-plane", "sidecar"])
def test_a_wrong_value(server: str) -> None:
    """It is named with what is wrong, in a line of its own and without a traceback."""
    done = runner.invoke(build([server]), [server, "serve", "--grpc", "nowhere"])
    assert done.exit_code == 1
    assert "wrong settings" in done.stderr
    assert "grpc: " in done.stderr
    assert "HOST:PORT" in done.stderr


@pytest.mark.parametrize("server", ["control-plane", "sidecar"])
@pytest.mark.parametrize("setting", ["grpc", "http"])
def test_a_taken_port(server: str, setting: str, tmp_path: Path) -> None:
    """The error names the setting, the port and the mend, in one line and without a traceback."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        mine, kept = os.pipe()
        command = [server, "serve", "--listening-fd", str(kept)]
        command += ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", f"--{setting}", f"127.0.0.1:{taken}"]
        command += (
            ["--data", str(tmp_path)]
            if server == "sidecar"
            else ["--database", f"sqlite:///{tmp_path}/b.sqlite3"]
        )
        done = runner.invoke(build(command), command)
        os.close(kept)
    with os.fdopen(mine) as told:
        assert told.read() == "", "nobody is told that it listens"
    assert done.exit_code == 1
    assert f"{setting} 127.0.0.1:{taken}: port {taken} is taken" in done.stderr
    assert f"--{setting} HOST:PORT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("server", ["control-plane", "sidecar"])
def test_a_taken_port_is_all_that_is_said(server: str, tmp_path: Path) -> None:
    """One line on standard error: gRPC, which writes there by itself, is not asked for what can not be had."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = f"127.0.0.1:{stranger.getsockname()[1]}"
        command = [sys.executable, "-m", "clients.cli", server, "serve", "--grpc", taken]
        command += ["--http", "127.0.0.1:0", "--set"]
        command += [f"data={tmp_path}" if server == "sidecar" else f"database=sqlite:///{tmp_path}/b.sqlite3"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(said) == 1, done.stderr
    assert said[0].startswith(f"error  grpc {taken}: port")


WRONG = {
    "sidecar serve --durability powerloss": """
  durability: is none of 'power_loss', 'process_crash' or 'remote'
""",
    "sidecar serve --grpc 0.0.0.0:70": """
  --grpc 0.0.0.0:70 is not loopback: it needs --tls-certificate with --tls-key, or --plaintext where a mesh does it
""",
    f"sidecar serve --name {'ü' * 128}": """
  --name has more than 255 bytes: the control plane takes no more
""",
    "control-plane serve --grpc 0.0.0.0:70 --sync-token-file t": """
  --grpc 0.0.0.0:70 is not loopback: it needs --sync-token-file (or --set tls_client_authority=FILE), \
and --tls-certificate with --tls-key, or --plaintext where a mesh does it
""",
    "control-plane serve --set lease_ttl=5x --set grace=PT1H --set database_pool=x --set stop_seconds=-1": """
  database_pool: is no whole number
  lease_ttl: is no ISO 8601 span, for instance PT1M
  grace: must be at most 10 minutes
  stop_seconds: must be at least 0
""",
}


@pytest.mark.parametrize("command", WRONG)
def test_wrong_settings_are_said_in_our_words(command: str) -> None:
    """A line for each setting at fault, and none for one that only follows from another."""
    done = runner.invoke(build(command.split()), command.split())
    assert done.exit_code == 1
    assert done.stderr == f"error  wrong settings{WRONG[command]}"


def test_migrate_brings_a_file_up_and_says_where_it_stands(tmp_path: Path) -> None:
    """Again it changes nothing, and says the same."""
    command = ["migrate", "--database", f"sqlite:///{tmp_path}/books.sqlite3"]
    first, again = (runner.invoke(build(command), command) for _ in range(2))
    assert first.exit_code == again.exit_code == 0, first.output
    assert "is at version 0" in first.output
    assert first.output == again.output


def test_migrate_refuses_other_databases() -> None:
    """What is neither SQLite nor PostgreSQL is an error in words."""
    done = runner.invoke(build(["migrate"]), ["migrate", "--database", "mysql://books"])
    assert done.exit_code == 1
    assert "sqlite or postgresql" in done.stderr
