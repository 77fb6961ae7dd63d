"""Lines to paste while the demo serves, with ids that are in its books."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from clients.cli import rest, sidecar_calls
from clients.cli.dev.cluster import Cluster
from clients.cli.dev.heard import Heard
from clients.cli.dev.people import PlannedCall

EXAMPLE_EVENT = (
    "--event llm_inference --measure input_tokens=412 --measure output_tokens=1083 "
    "--attribute model=text-gen-v3"
)


def paste_lines(cluster: Cluster, calls: Sequence[PlannedCall], heard: Heard) -> list[str]:
    """Shell lines, five lines of Python, a curl. `#` begins what is only to be read."""
    address = cluster.addresses[0]
    sidecar = "" if address == sidecar_calls.SIDECAR else f" --sidecar {address}"
    control_plane = "" if cluster.rest_url == rest.CONTROL_PLANE else f" --control-plane {cluster.rest_url}"
    customer, key = _longest_stream(calls, heard)
    programs = _shown(Path(sys.executable).parent)
    return [
        "# it serves until Ctrl-C; in another terminal, from this folder:",
        f"{programs}/purser check --customer {customer} --feature chat {EXAMPLE_EVENT} --explain{sidecar}",
        f"{programs}/purser trace {key}{control_plane}",
        f"curl -s {cluster.rest_url}/v1/customers/{customer}/balances",
        f"# five lines of Python, for {programs}/python:",
        "import purser",
        f'client = purser.Client("{address}")',
        f'with client.reserve(customer_id="{customer}", feature="chat", event_name="llm_inference",',
        '        measures={"input_tokens": 412, "output_tokens": 2048}, attributes={"model": "text-gen-v3"}) as r:',
        '    print(r.decision.reason, r and r.settle({"input_tokens": 412, "output_tokens": 1083}, final=True))',
    ]


def _shown(folder: Path) -> Path:
    """As it can be typed from here."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _longest_stream(calls: Sequence[PlannedCall], heard: Heard) -> tuple[str, str]:
    """A replayed request that is in the books, preferably a long one of a customer who pays from a wallet."""
    booked = [call for call in calls if (call.customer_id, call.reservation_id) in heard.events]
    best = max(booked, key=lambda call: (call.customer_id in _WALLETS, call.generated_tokens[-1]))
    return best.customer_id, best.reservation_id


_WALLETS = ("elm", "fjord")
