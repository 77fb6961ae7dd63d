"""What `purser dev` leaves behind when it could not do what it was asked."""

import signal
import tempfile
from pathlib import Path

import pytest

from clients.cli.dev import ports, running

OPTIONS = running.Options(
    data=None,
    demo=False,
    free_ports=False,
    exit_after=False,
    trace=None,
    seed=1,
    as_json=False,
    record=None,
)


@pytest.mark.parametrize("begun", [False, True], ids=["nothing begun", "a server begun"])
def test_a_folder_is_kept_only_for_what_is_in_it(
    begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where the ports are taken nothing is left and nothing said to be; a server's log is kept, and where is said."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def taken(claims: ports.Claims) -> None:
        if begun:
            (folder,) = tmp_path.iterdir()
            (folder / "sidecar.log").write_text("why")
        raise ports.PortTaken("sidecar", 7070)

    monkeypatch.setattr(ports, "standard", taken)
    assert running.run(OPTIONS) == 1
    said = capfd.readouterr().err
    assert "port 7070 of the sidecar is taken" in said
    assert len(list(tmp_path.iterdir())) == begun
    assert ("kept for you to look at" in said) is begun
