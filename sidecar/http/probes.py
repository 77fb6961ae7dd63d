"""`/livez`, `/readyz` and `/metrics` over plain HTTP, for orchestrators and people."""

import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from sidecar.runtime.listening import listening

_TEXT: Final = "text/plain; charset=utf-8"
CALLER_SECONDS: Final = 10.0
"""Who says or takes nothing for so long is hung up on: each caller has a thread."""

_log = structlog.stdlib.get_logger(__name__)


class _Server(ThreadingHTTPServer):
    """A thread for each caller; one who is gone before the answer is no news."""

    def handle_error(self, request: object, client_address: object) -> None:
        """By itself it would print a traceback."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):
            _log.error("a probe failed", exc_info=error)


class Probes:
    """A small HTTP server in a thread of its own."""

    def __init__(
        self,
        address: str,
        *,
        ready: Callable[[], str],
        registry: CollectorRegistry,
        refresh: Callable[[], None],
    ) -> None:
        """Binds `host:port`. `ready()`: empty, or why not. `refresh()` is called before metrics are shown.
        Raises CanNotListen.
        """

        class Handler(BaseHTTPRequestHandler):
            timeout = CALLER_SECONDS

            def do_GET(self) -> None:
                match self.path.partition("?")[0]:
                    case "/livez":
                        self._answer(200, b"ok\n", _TEXT)
                    case "/readyz":
                        why = ready()
                        self._answer(503 if why else 200, f"{why or 'ok'}\n".encode(), _TEXT)
                    case "/metrics":
                        refresh()
                        self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
                    case _:
                        self._answer(404, b"/livez, /readyz and /metrics are here\n", _TEXT)

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class names it so
                """Probes every second are no news."""

        host, _, port = address.rpartition(":")
        with listening("http", address):
            self._server = _Server((host.strip("[]"), int(port)), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="purser-http", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Serves."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
