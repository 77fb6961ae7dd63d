"""`purser control-plane serve`, `sidecar serve`, `migrate`: settings that are wrong are said to be, by name."""

import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.cli.__main__ import build

runner = CliRunner()


@pytest.mark.parametrize("server", ["control-plane", "sidecar"])
def test_an_unknown_setting(server: str) -> None:
    """A setting that does not exist is an error, and those that do are named: nothing is silently ignored."""
    done = runner.invoke(build([server]), [server, "serve", "--set", "leese_ttl=5"])
    assert done.exit_code == 1
    assert "leese_ttl=5" in done.stderr
    assert "grpc" in done.stderr


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
