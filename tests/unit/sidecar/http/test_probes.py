"""The probes' server, whatever its callers do."""

import socket
import struct
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client import CollectorRegistry

from sidecar.http import probes
from sidecar.http.probes import Probes


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Probes]:
    """A server with little patience."""
    monkeypatch.setattr(probes, "CALLER_SECONDS", 0.2)
    made = Probes("127.0.0.1:0", ready=lambda: "", registry=CollectorRegistry(), refresh=lambda: None)
    made.start()
    yield made
    made.stop()


def test_who_says_nothing_is_hung_up_on(served: Probes) -> None:
    """A caller that never asks holds a thread no longer than a moment."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as caller:
        assert caller.recv(100) == b""


def test_who_is_gone_is_no_news(served: Probes, capfd: pytest.CaptureFixture[str]) -> None:
    """A caller that hangs up in the middle leaves no traceback, and the next one is answered."""
    for _ in range(5):
        caller = socket.create_connection(("127.0.0.1", served.port), timeout=5)
        caller.sendall(b"GET /metrics HTTP/1.1\r\n" + b"x" * 70_000)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.close()
    assert httpx.get(f"http://127.0.0.1:{served.port}/livez", timeout=5).text == "ok\n"
    assert "Traceback" not in capfd.readouterr().err
