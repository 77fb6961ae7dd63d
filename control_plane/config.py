"""The control plane's settings, declared once: flags over `PURSER_…` environment variables over a YAML file."""

import ipaddress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Field, model_validator

from control_plane.leases.settings import LeaseSettings, QuarantinePolicy
from control_plane.usage.lateness import KEPT_MIN
from sidecar.runtime.settings_file import LayeredSettings


def _address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError("write HOST:PORT, such as 127.0.0.1:7080; port 0 takes a free one")
    return value


Address = Annotated[str, AfterValidator(_address)]
_TLS: Final = "--tls-certificate with --tls-key, or --plaintext where a mesh does it"


class Settings(LayeredSettings):
    """Every setting of `purser control-plane serve`."""

    database: str = Field(
        "sqlite:///purser-control-plane.sqlite3",
        description="URL of the database: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.",
    )
    grpc: Address = Field("127.0.0.1:7080", description="Where sidecars are served.")
    http: Address = Field("127.0.0.1:7081", description="Where REST, health and metrics are served.")
    database_pool: int = Field(
        20, ge=2, le=200, description="Connections to the database that are kept open."
    )
    sync_token_file: Path | None = Field(
        None, description="File with the bearer token that sidecars bring; read again when it changes."
    )
    admin_token_file: Path | None = Field(
        None, description="File with the bearer token of REST; read again when it changes."
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file with the certificate chain, for gRPC and HTTP."
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's key.")
    tls_client_authority: Path | None = Field(
        None, description="PEM file: sidecars must bring a certificate that it signed."
    )
    plaintext: bool = Field(
        False, description="Allow other addresses than loopback without TLS, because a mesh in front does it."
    )
    lease_ttl: timedelta = Field(
        timedelta(seconds=60),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="How long a lease may be spent.",
    )
    rate_ttl: timedelta = Field(
        timedelta(seconds=20),
        ge=timedelta(seconds=1),
        le=timedelta(hours=1),
        description="How long a share of a rate lasts.",
    )
    grace: timedelta = Field(
        timedelta(seconds=5),
        ge=timedelta(),
        le=timedelta(minutes=10),
        description="Added to a lease's end, beside drift.",
    )
    drift_percent: int = Field(1, ge=0, le=10, description="How much slower a holder's clock may run.")
    quarantine_timeout: timedelta = Field(
        timedelta(hours=24),
        ge=timedelta(),
        le=timedelta(days=366),
        description="How long an expired lease, or a seat that is not in the books, waits for its sidecar.",
    )
    quarantine_policy: QuarantinePolicy = Field(
        QuarantinePolicy.PRESUME, description="What becomes of it then: presume or release."
    )
    max_staleness: timedelta = Field(
        timedelta(hours=1),
        ge=timedelta(),
        le=timedelta(days=366),
        description="The longest max_staleness of any feature; quarantine lasts at least that.",
    )
    sweep_every: timedelta = Field(
        timedelta(seconds=1),
        ge=timedelta(milliseconds=100),
        le=timedelta(minutes=1),
        description="How often expiry and quarantine are booked.",
    )
    feed_kept: timedelta = Field(
        timedelta(days=7),
        ge=timedelta(minutes=1),
        le=timedelta(days=366),
        description="How long a sidecar may be away and still resume.",
    )
    keys_kept: timedelta = Field(
        KEPT_MIN,
        ge=KEPT_MIN,
        le=timedelta(days=3660),
        description="How long idempotency keys are kept: longer than facts may be late (34 d) and their sidecar away "
        "(7 d), else one would count twice.",
    )
    stop_seconds: float = Field(10, ge=0, le=300, description="What calls get to end when the process stops.")

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("--tls-certificate and --tls-key go together: give both, or neither")
        if self.tls_client_authority is not None and self.tls_certificate is None:
            raise ValueError("tls_client_authority needs --tls-certificate with --tls-key")
        encrypted = self.tls_certificate is not None or self.plaintext
        if not is_loopback(self.http) and not (self.admin_token_file is not None and encrypted):
            raise ValueError(f"--http {self.http} is not loopback: it needs --admin-token-file, and {_TLS}")
        if not is_loopback(self.grpc):
            known = self.sync_token_file is not None or self.tls_client_authority is not None
            if not (known and encrypted):
                raise ValueError(
                    f"--grpc {self.grpc} is not loopback: it needs --sync-token-file "
                    f"(or --set tls_client_authority=FILE), and {_TLS}"
                )
        return self

    @property
    def leases(self) -> LeaseSettings:
        """How leases are timed and let go."""
        return LeaseSettings(
            ttl=self.lease_ttl,
            rate_ttl=self.rate_ttl,
            drift_percent=self.drift_percent,
            grace=self.grace,
            quarantine_timeout=self.quarantine_timeout,
            quarantine_policy=self.quarantine_policy,
            max_staleness=self.max_staleness,
        )


def settings_from(**flags: Any) -> Settings:
    """The settings with these flags on top; a flag that is None was not given."""
    return Settings.given(flags)


def is_loopback(address: str) -> bool:
    """Does `host:port` name this machine alone?"""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
