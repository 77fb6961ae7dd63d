"""`purser control-plane serve` and `purser sidecar serve`."""

# ruff: noqa: PLR0917 — the signatures are the options: Typer reads them, nobody calls these by position.

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from clients.cli import output

control_plane = typer.Typer(help="The control plane: catalog, customers, ledger.", no_args_is_help=True)
sidecar = typer.Typer(help="The sidecar: decides next to an app.", no_args_is_help=True)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="PURSER_CONFIG", help="YAML file with settings; flags and PURSER_… variables win."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Any other setting of docs/configuration.md. May be repeated."
    ),
]
GRPC_HELP = "Port 0 takes a free one and says which."
HTTP_HELP = "As --grpc."
Certificate = Annotated[
    Path | None, typer.Option("--tls-certificate", help="PEM file with the certificate chain.")
]
CertificateKey = Annotated[Path | None, typer.Option("--tls-key", help="PEM file with its key.")]
Plaintext = Annotated[
    bool | None,
    typer.Option("--plaintext", help="Allow other addresses than loopback without TLS: a mesh does it."),
]
ListeningFd = Annotated[
    int | None,
    typer.Option(
        "--listening-fd",
        hidden=True,
        help="For a supervisor: a line with both addresses is written to this file descriptor once they are ours.",
    ),
]


class Listening(Protocol):
    """A server that has its addresses."""

    @property
    def grpc_address(self) -> str: ...

    @property
    def http_address(self) -> str: ...


@control_plane.callback()
def _control_plane() -> None:
    """The control plane: catalog, customers, ledger."""


@sidecar.callback()
def _sidecar() -> None:
    """The sidecar: decides next to an app."""


@control_plane.command("serve")
def serve_control_plane(
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            metavar="URL",
            help="sqlite:///FILE comes up by itself; PostgreSQL by `purser migrate`.",
            show_default="sqlite:///purser-control-plane.sqlite3",
        ),
    ] = None,
    grpc: Annotated[
        str | None,
        typer.Option("--grpc", metavar="HOST:PORT", help=GRPC_HELP, show_default="127.0.0.1:7080"),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option("--http", metavar="HOST:PORT", help=HTTP_HELP, show_default="127.0.0.1:7081"),
    ] = None,
    tls_certificate: Certificate = None,
    tls_key: CertificateKey = None,
    plaintext: Plaintext = None,
    admin_token_file: Annotated[
        Path | None, typer.Option("--admin-token-file", help="File with the bearer token of REST.")
    ] = None,
    sync_token_file: Annotated[
        Path | None, typer.Option("--sync-token-file", help="File with the bearer token that sidecars bring.")
    ] = None,
    config: Config = None,
    other: Set = None,
    listening_fd: ListeningFd = None,
) -> None:
    """Serve until SIGTERM: gRPC for sidecars (7080), REST, health and metrics (7081)."""
    import sqlalchemy.exc

    from control_plane.app import EmptyToken, run
    from control_plane.config import Settings, settings_from
    from control_plane.db.engine import UnsupportedDatabase
    from control_plane.db.migrate import NotMigrated

    flags = _flags(
        Settings.model_fields,
        other,
        database=database,
        grpc=grpc,
        http=http,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        plaintext=plaintext,
        admin_token_file=admin_token_file,
        sync_token_file=sync_token_file,
    )
    _name_config(config)
    try:
        run(settings_from(**flags), started=_telling(listening_fd))
    except (
        ValueError,
        OSError,
        EmptyToken,
        UnsupportedDatabase,
        NotMigrated,
        sqlalchemy.exc.SQLAlchemyError,
    ) as error:
        raise output.fail(error) from error


@sidecar.command("serve")
def serve_sidecar(
    upstream: Annotated[
        str | None,
        typer.Option(
            "--control-plane",
            metavar="HOST:PORT",
            help="gRPC address of the control plane.",
            show_default="127.0.0.1:7080",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder of the outbox: keep it, one process each.", show_default="purser-sidecar"
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="What people call it; only a label.", show_default="the host's name"),
    ] = None,
    grpc: Annotated[
        str | None,
        typer.Option("--grpc", metavar="HOST:PORT", help=GRPC_HELP, show_default="127.0.0.1:7070"),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option("--http", metavar="HOST:PORT", help=HTTP_HELP, show_default="127.0.0.1:7071"),
    ] = None,
    durability: Annotated[
        str | None,
        typer.Option(
            "--durability",
            help="What an acknowledged write survives: power_loss, process_crash or remote.",
            show_default="power_loss",
        ),
    ] = None,
    tls_certificate: Certificate = None,
    tls_key: CertificateKey = None,
    plaintext: Plaintext = None,
    config: Config = None,
    other: Set = None,
    listening_fd: ListeningFd = None,
) -> None:
    """Serve until SIGTERM: gRPC for apps (7070), health and metrics (7071). It drains before it ends."""
    from sidecar.__main__ import FAILURES, serve
    from sidecar.config import Settings, settings_from

    flags = _flags(
        Settings.model_fields,
        other,
        control_plane=upstream,
        data=data,
        name=name,
        grpc=grpc,
        http=http,
        durability=durability,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        plaintext=plaintext,
    )
    _name_config(config)
    try:
        serve(settings_from(**flags), started=_telling(listening_fd))
    except FAILURES as error:
        raise output.fail(error) from error


def _telling(descriptor: int | None) -> Callable[[Listening], None]:
    """Says once, to whoever gave the descriptor, that this very process has the addresses."""

    def tell(server: Listening) -> None:
        if descriptor is not None:
            with os.fdopen(descriptor, "w") as supervisor:
                supervisor.write(f"{server.grpc_address} {server.http_address}\n")

    return tell


def _flags(known: Collection[str], other: list[str] | None, **given: Any) -> dict[str, Any]:
    """What was given, by the setting's name."""
    for text in other or ():
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in known:
            raise output.fail(
                ValueError(f"--set {text}: write NAME=VALUE with one of {', '.join(sorted(known))}")
            )
        given[name] = value
    return {name: value for name, value in given.items() if value is not None}


def _name_config(config: Path | None) -> None:
    """The settings find their file through the environment."""
    if config is not None:
        os.environ["PURSER_CONFIG"] = str(config)
