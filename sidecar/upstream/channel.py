"""The channel to the control plane: plain, TLS or mutual TLS, with a bearer token that may be replaced while
running.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    # A network that swallows packets is noticed within 15 seconds, also by the feed, which has no deadline.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, slots=True)
class Security:
    """Files with what the connection is secured by. All empty: a plain channel, for loopback and sockets only."""

    ca_file: Path | None = None
    """Whom to trust. None with `is_tls`: the system's authorities."""
    certificate_file: Path | None = None
    """Our own certificate chain, for mutual TLS; with `key_file`."""
    key_file: Path | None = None
    token_file: Path | None = None
    """A bearer token, in one line; read again when the file changes."""
    is_tls: bool = False


class TokenOverPlainChannel(ValueError):
    """A bearer token would travel unencrypted; turn TLS on."""


class TokenFile:
    """A bearer token in a file that may be replaced at any time."""

    def __init__(self, path: Path) -> None:
        """Reads it with the first call."""
        self._path = path
        self._read_at_version: tuple[int, int] | None = None
        self._token = ""

    def token(self) -> str:
        """The token as the file has it now. Raises OSError when it can not be read and never was."""
        try:
            stat = self._path.stat()
            version = (stat.st_mtime_ns, stat.st_ino)
            if version != self._read_at_version:
                self._token = self._path.read_text().strip()
                self._read_at_version = version
        except OSError:
            if not self._token:
                raise
        return self._token


class _Bearer(grpc.AuthMetadataPlugin):
    def __init__(self, token: TokenFile) -> None:
        self._token = token

    def __call__(
        self, context: grpc.AuthMetadataContext, callback: Callable[[Any, Exception | None], None]
    ) -> None:
        del context
        try:
            callback((("authorization", f"Bearer {self._token.token()}"),), None)
        except OSError as error:
            callback((), error)


def open_channel(target: str, security: Security) -> grpc.Channel:
    """A channel to `host:port` or `unix:…`; it connects by itself and again. Raises TokenOverPlainChannel, OSError."""
    if not security.is_tls:
        if security.token_file is not None:
            raise TokenOverPlainChannel(f"a bearer token needs TLS to {target}")
        return grpc.insecure_channel(target, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(security.ca_file),
        private_key=_read(security.key_file),
        certificate_chain=_read(security.certificate_file),
    )
    if security.token_file is not None:
        bearer = grpc.metadata_call_credentials(_Bearer(TokenFile(security.token_file)))
        credentials = grpc.composite_channel_credentials(credentials, bearer)
    return grpc.secure_channel(target, credentials, options=_OPTIONS)


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
