"""From the flags of `purser dev` to running servers and an exit status."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console

from clients.cli import output
from clients.cli.dev import demo, ports, sample
from clients.cli.dev.cluster import Cluster, ServerFailed

PLAIN_WIDTH: Final = 120
"""Of lines in a file or a pipe."""
LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """The flags."""

    data: Path | None
    demo: bool
    free_ports: bool
    exit_after: bool
    trace: Path | None
    seed: int
    as_json: bool
    record: Path | None


def run(options: Options) -> int:
    """Does what the flags say: the exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    # With --json the object is all there is on standard output: the story is told beside it.
    terminal = (sys.stderr if options.as_json else sys.stdout).isatty()
    console = Console(
        highlight=False,
        emoji=False,
        width=None if terminal else PLAIN_WIDTH,
        force_terminal=terminal,
        stderr=options.as_json,
    )
    try:
        plan = demo.prepare(options.trace, options.seed) if options.demo else None
        with _folder(options.data, console) as folder, ports.Claims() as claims:
            if plan:
                return _demo(options, plan, claims, folder, console)
            return _serve(options, claims, folder, console)
    except KeyboardInterrupt:
        return (
            output.FAILED if options.exit_after else output.ALLOWED
        )  # cut short, or served for as long as wanted
    except (ServerFailed, sample.BadTrace, OSError, *demo.FAILURES) as error:
        return output.fail(error).exit_code


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _folder(given: Path | None, console: Console) -> Iterator[Path]:
    """The data folder. A temporary one is kept when something went wrong, if there are logs that say what."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        _say(console, f"data and logs: {given}")
        try:
            yield given.resolve()
        except Exception:
            output.note(f"the servers' logs: {given}")
            raise
        return
    folder = Path(tempfile.mkdtemp(prefix="purser-dev-"))
    _say(console, f"data and logs: {folder}, removed at the end (--data DIR keeps them)")
    try:
        yield folder
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        raise
    except Exception:
        if any(folder.iterdir()):
            output.note(f"kept for you to look at, with the servers' logs: {folder}")
        else:
            folder.rmdir()
        raise
    shutil.rmtree(folder)


def _serve(options: Options, claims: ports.Claims, folder: Path, console: Console) -> int:
    """One sidecar, nothing published, until Ctrl-C."""
    control_plane, sidecars = ports.choose(1, claims) if options.free_ports else ports.standard(claims)
    _say(console, "starting a control plane and a sidecar")
    with Cluster(folder, control_plane, sidecars) as cluster:
        _announce(cluster, console)
        _say_where_commands_go(cluster, console)
        _say(console, "Ctrl-C ends it")
        return _wait(cluster)


def _demo(options: Options, plan: demo.Plan, claims: ports.Claims, folder: Path, console: Console) -> int:
    """The story; then, unless it is to end there, until Ctrl-C."""
    if any(folder.glob("*.sqlite3")):
        raise demo.FolderInUse(
            f"{folder} holds books already, and the demo begins with empty ones: give another --data"
        )
    control_plane, sidecars = ports.choose(demo.SIDECARS, claims)
    _say(console, f"starting a control plane and {demo.SIDECARS} sidecars")
    with Cluster(folder, control_plane, sidecars) as cluster:
        _announce(cluster, console)
        outcome = demo.play(plan, cluster, console)
        if options.record:
            options.record.write_text(demo.recorded(outcome))
        if not options.exit_after:
            demo.invite(outcome, console)
        if options.as_json:
            print(demo.as_json(outcome), flush=True)
        if not options.exit_after:
            return _wait(cluster)
    if not outcome.held:
        raise demo.Unheld("not every check held")
    return output.ALLOWED


def _announce(cluster: Cluster, console: Console) -> None:
    for server in cluster.servers:
        where = "" if server.ports.standard else "  (the standard ports are taken)"
        listens = f"gRPC {server.ports.grpc_address}  HTTP http://{server.ports.http_address}"
        _say(console, f"{server.name:<14} {listens}{where}")


def _say_where_commands_go(cluster: Cluster, console: Console) -> None:
    """Commands ask at the standard ports, where somebody else may be."""
    if all(server.ports.standard for server in cluster.servers):
        return
    plane, sidecar = cluster.control_plane.ports, cluster.sidecars[0].ports
    _say(console, "for commands in another terminal:")
    _say(
        console,
        f"export PURSER_SIDECAR={sidecar.grpc_address} PURSER_CONTROL_PLANE_HTTP=http://{plane.http_address}",
    )


def _wait(cluster: Cluster) -> NoReturn:
    """Serves until Ctrl-C.

    Raises:
        ServerFailed: a server ended by itself.
    """
    while (fallen := cluster.fallen()) is None:
        time.sleep(LOOK_SECONDS)
    raise ServerFailed(f"{fallen.name} ended by itself. Its log: {fallen.log}\n{fallen.tail()}")


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
