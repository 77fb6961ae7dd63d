"""Servers as processes: whoever answers on their ports, only their own word counts."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from clients.cli.dev.cluster import Cluster, Server, ServerFailed
from clients.cli.dev.ports import Ports


class _AlwaysReady(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class names it so
        """Nobody reads it."""


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of somebody who answers everything with 200."""
    with HTTPServer(("127.0.0.1", 0), _AlwaysReady) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_strangers_answer_is_not_our_server_s(stranger: int, tmp_path: Path) -> None:
    """The port was taken between the look at it and the start: that is an error with the reason, not a start."""
    ports = Ports(grpc=0, http=stranger, standard=False)
    control_plane = Cluster(tmp_path, ports, []).control_plane
    control_plane.start()
    with pytest.raises(ServerFailed, match=f"port {stranger} is taken"):
        control_plane.wait_ready()


def test_a_process_that_never_says_that_it_listens_is_not_ready(stranger: int, tmp_path: Path) -> None:
    """It ends without a word, while somebody answers on its port."""
    server = Server("mute", ["--help"], ports=Ports(0, stranger, standard=False), log=tmp_path / "mute.log")
    server.start()
    with pytest.raises(ServerFailed, match="mute ended by itself"):
        server.wait_ready()
