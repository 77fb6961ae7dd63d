"""The sidecar's settings, declared once: flags over `PURSER_…` environment variables over a YAML file."""

import ipaddress
import socket
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sidecar.outbox.port import Durability
from sidecar.runtime.settings_file import LayeredSettings

LABEL_MAX_BYTES: Final = 255


def _address(value: str) -> str:
    if value.startswith("unix:"):
        return value
    host, colon, port = value.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError("write HOST:PORT, such as 127.0.0.1:7070, or unix:PATH; port 0 takes a free one")
    return value


Address = Annotated[str, AfterValidator(_address)]


def write_threads(settings: dict[str, Any]) -> int:
    """How many suit the durability, as measured: the longer a commit takes, the more calls can be decided meanwhile."""
    match settings.get("durability"):
        case Durability.PROCESS_CRASH:
            return 16
        case Durability.REMOTE:
            return 64
        case _:
            return 24


class Settings(LayeredSettings):
    """Every setting of `purser sidecar serve`."""

    control_plane: Address = Field("127.0.0.1:7080", description="gRPC address of the control plane.")
    data: Path = Field(
        Path("purser-sidecar"), description="Folder of the outbox and the snapshot; one process each."
    )
    name: str = Field(
        default_factory=socket.gethostname, max_length=255, description="What people call it; only a label."
    )
    grpc: Address = Field("127.0.0.1:7070", description="Where apps are served: HOST:PORT or unix:PATH.")
    http: Address = Field("127.0.0.1:7071", description="Where /livez, /readyz and /metrics are served.")
    durability: Durability = Field(
        Durability.POWER_LOSS,
        description="What an acknowledged write survives: power_loss, process_crash or remote.",
    )
    late_window: timedelta = Field(
        timedelta(days=34),
        ge=timedelta(days=1),
        le=timedelta(days=34),
        description="How far back a reported event may have occurred; idempotency keys are kept for longer.",
    )
    redis: str = Field("", description="URL of a Redis that caches the fleet's view. Empty: none.")
    redis_prefix: str = Field("purser", max_length=255, description="Keeps fleets apart that share a Redis.")
    customers_max: int = Field(
        20_000, ge=10, description="Customers, and subjects, that are held in memory at most."
    )
    customers_in_use_max: int = Field(
        2_000,
        ge=1,
        description="Customers, the last ones asked about, that are held ready to decide about. "
        "The others take a tenth of the memory, and the next call about one takes a fraction of a millisecond longer.",
    )
    read_threads: int = Field(4, ge=1, le=64, description="Threads that answer checks.")
    write_threads: int = Field(
        default_factory=write_threads,
        ge=1,
        le=512,
        description="Threads that record usage: so many calls share a commit, or wait for the control plane.",
    )
    stream_threads: int = Field(64, ge=1, le=4096, description="Watches at a time.")
    calls_max: int = Field(5_000, ge=10, description="Calls in flight; what is over it is refused at once.")
    drain_seconds: float = Field(
        10, ge=0, le=300, description="What a stop gives to calls, uploads and returns, each."
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file with the certificate chain that apps are served with."
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's key.")
    plaintext: bool = Field(
        False, description="Allow other addresses than loopback without TLS, because a mesh in front does it."
    )
    upstream_tls: bool = Field(False, description="TLS to the control plane, by the system's authorities.")
    upstream_ca_file: Path | None = Field(
        None, description="PEM file with the authorities to trust; turns TLS on."
    )
    upstream_cert_file: Path | None = Field(
        None, description="PEM file with our certificate, for mutual TLS."
    )
    upstream_key_file: Path | None = Field(None, description="PEM file with its key.")
    upstream_token_file: Path | None = Field(
        None, description="File with a bearer token; read again when it changes."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least that is logged."
    )
    log_json: bool = Field(True, description="JSON lines; else plain ones for a terminal.")

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("--tls-certificate and --tls-key go together: give both, or neither")
        if not is_local(self.grpc) and self.tls_certificate is None and not self.plaintext:
            raise ValueError(
                f"--grpc {self.grpc} is not loopback: it needs --tls-certificate with --tls-key, "
                "or --plaintext where a mesh does it"
            )
        if len(self.name.encode(errors="replace")) > LABEL_MAX_BYTES:
            raise ValueError(f"--name has more than {LABEL_MAX_BYTES} bytes: the control plane takes no more")
        return self


def settings_from(**flags: Any) -> Settings:
    """The settings with these flags on top; a flag that is None was not given. Raises pydantic's ValidationError and
    BadSettingsFile.
    """
    return Settings.given(flags)


def is_local(address: str) -> bool:
    """Does it name this machine alone?"""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
