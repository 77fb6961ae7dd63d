"""A whole sidecar on a real port that starts from a snapshot, with no control plane anywhere: for contracts
of the edge.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import yaml

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import entitlement_service_pb2_grpc as stubs
from sidecar.app import Sidecar
from sidecar.config import settings_from
from sidecar.runtime.clock import Clock
from sidecar.view.snapshot import SnapshotFile, StoredView

CATALOG = """
purser: catalog/v1
units:
  usd: {name: US dollar, kind: currency, scale: 9}
meters:
  calls: {event: call, aggregate: count}
  points: {event: job, aggregate: sum, of: [points]}
rate_cards:
  llm:
    event: llm_inference
    unit: usd
    unknown: deny
    parts: {cached_input_tokens: input_tokens}
    prices:
      - {dimension: input_tokens, per: 1000, price: "0.003"}
      - {dimension: cached_input_tokens, per: 1000, price: "0.0003"}
features:
  chat: {type: metered, event: llm_inference, rate_card: llm}
  calls: {type: metered, meter: calls}
  quota: {type: metered, meter: points}
  sso: {type: switch}
  models: {type: config, value: set}
  seats: {type: gauge}
  free_for_all: {type: switch, trouble: {on_unknown_customer: allow}}
plans:
  payg:
    entitlements:
      chat: {charge: llm, pay: in_arrears}
      quota: {limit: 100, every: P1M, overage: deny}
      sso: true
      seats: {limit: 2}
      models: [text-gen-v3]
"""


@dataclass(frozen=True)
class Offline:
    """A sidecar and a stub for it."""

    sidecar: Sidecar
    stub: stubs.EntitlementServiceStub
    channel: grpc.Channel

    def records(self) -> list[sync.Usage]:
        """Every usage record in the outbox, in order."""
        found: list[sync.Usage] = []
        outbox = self.sidecar._outbox
        for item in outbox.incarnations():
            batch = outbox.read_batch(item.incarnation_id, max_records=1 << 30, max_bytes=1 << 30)
            if batch is not None:
                found += [
                    record.usage for record in sync.ReportBatchRequest.FromString(batch.payload).records
                ]
        return found

    def written(self) -> int:
        """How many records the outbox has."""
        return sum(item.last_seq for item in self.sidecar._outbox.incarnations())


def write_snapshot(folder: Path, *, as_of: datetime, catalog: str = CATALOG) -> None:
    """A view at revision 7 with one catalog, one customer on `payg`, one that does not exist, and a subject."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = stored_view(as_of=as_of, catalog=catalog)
    SnapshotFile(folder / "view.snapshot").write(
        generation=stored.generation,
        revision=stored.revision,
        as_of=stored.as_of,
        states=[*stored.catalogs, *stored.customers, *stored.subjects],
    )


def stored_view(*, as_of: datetime, catalog: str = CATALOG) -> StoredView:
    """The same, as a second tier takes it."""
    document = json.dumps(yaml.safe_load(catalog)).encode()
    subscription = feed.SubscriptionState(
        subscription_id="sub", plan="payg", catalog_revision=1, state="active"
    )
    subscription.starts_at.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
    return StoredView(
        generation=1,
        revision=7,
        as_of=as_of,
        catalogs=(feed.CatalogRevision(revision=1, document=document, current=True),),
        customers=(
            feed.CustomerState(customer_id="acme", exists=True, subscriptions=[subscription]),
            feed.CustomerState(customer_id="ghost", exists=False),
        ),
        subjects=(
            feed.SubjectState(subject_id="ann", customer_id="acme"),
            feed.SubjectState(subject_id="stranger", customer_id="other"),
        ),
    )


@contextmanager
def offline_sidecar(folder: Path, *, clock: Clock | None = None, **flags: Any) -> Iterator[Offline]:
    """Runs one on free ports in `folder`, which holds its outbox and snapshot."""
    settings = settings_from(
        control_plane="127.0.0.1:9",
        data=folder,
        grpc="127.0.0.1:0",
        http="127.0.0.1:0",
        drain_seconds=1,
        **flags,
    )
    sidecar = Sidecar(settings, clock=clock)
    sidecar.start()
    channel = grpc.insecure_channel(sidecar.grpc_address)
    try:
        yield Offline(sidecar, stubs.EntitlementServiceStub(channel), channel)
    finally:
        channel.close()
        sidecar.stop(drain=False)
