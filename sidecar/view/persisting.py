"""Keeps the stored copies of the view near the view: the disk snapshot, and the fleet's second tier."""

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog

from purser.sync.v1 import feed_pb2 as feed
from sidecar.view.memory import View
from sidecar.view.port import SecondTier
from sidecar.view.snapshot import SnapshotFile, SnapshotUnusable, StoredView
from sidecar.view.states import BadState

_log = structlog.stdlib.get_logger(__name__)


EVERY_SECONDS: Final = 3.0
CONFIRM_EVERY_SECONDS: Final = 60.0
"""A view that does not change is written again so often, so that the age it would be read with stays honest."""


class Persisting:
    """Loads once, then writes after changes, at most every few seconds, and at the end."""

    def __init__(
        self,
        *,
        view: View,
        file: SnapshotFile,
        second_tier: SecondTier | None,
        wall_now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        """Nothing is read or written yet."""
        self._view = view
        self._file = file
        self._second_tier = second_tier
        self._wall_now = wall_now
        self._monotonic = monotonic
        self._stopping = threading.Event()
        self._written_revision = 0
        self._written_at = monotonic()
        self._lock = threading.Lock()
        self._changed_customers: set[str] = set()
        self._known_catalogs = 0
        self._thread = threading.Thread(target=self._run, name="purser-snapshot", daemon=True)

    def load(self) -> bool:
        """Takes over what is on disk. An unusable file is set aside and reported. True: there is a view now."""
        try:
            stored = self._file.read()
            if stored is None:
                return False
            self._view.restore(stored)
        except (SnapshotUnusable, BadState) as error:
            aside = self._file.set_aside(self._wall_now())
            _log.error("the snapshot of the view was set aside", cause=str(error), now=str(aside))
            return False
        except OSError as error:
            _log.error("the snapshot of the view can not be read", cause=str(error))
            return False
        self._view.pulse.restore(stored.as_of, wall_now=self._wall_now(), monotonic=self._monotonic())
        self._written_revision = stored.revision
        _log.info("started from the snapshot", revision=stored.revision, customers=len(stored.customers))
        return True

    def start(self) -> None:
        """Begins to write."""
        self._view.on_customers_changed(self._note)
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Writes once more and ends; waits at most so long."""
        self._stopping.set()
        self._thread.join(timeout_seconds)

    def _note(self, customer_ids: frozenset[str]) -> None:
        if self._second_tier is not None:
            with self._lock:
                self._changed_customers |= customer_ids

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_SECONDS):
            self._once()
        self._once()

    def _once(self) -> None:
        try:
            self._to_second_tier()
            self._to_disk()
        except OSError as error:
            _log.error("the snapshot of the view can not be written", cause=str(error))
        except Exception:  # noqa: BLE001
            # A snapshot is a cache; the thread goes on, and says what went wrong.
            _log.exception("the snapshot of the view was not written")

    def _to_disk(self) -> None:
        view, now = self._view, self._monotonic()
        revision = view.revision
        confirmed_anew = view.pulse.is_connected and now - self._written_at >= CONFIRM_EVERY_SECONDS
        is_last = self._stopping.is_set()
        if not revision or (revision == self._written_revision and not confirmed_anew and not is_last):
            return
        # States are at `revision` or newer: resuming from it sends some changes twice, and loses none.
        self._file.write(
            generation=view.generation, revision=revision, as_of=view.pulse.as_of(), states=view.states()
        )
        self._written_revision, self._written_at = revision, now

    def _to_second_tier(self) -> None:
        if self._second_tier is None or not self._view.pulse.is_connected:
            return
        with self._lock:
            changed, self._changed_customers = self._changed_customers, set()
        catalogs = len(self._view.catalogs)
        if not changed and catalogs == self._known_catalogs:
            return
        revision = self._view.revision
        states = list(self._view.states())
        self._second_tier.store(
            StoredView(
                generation=self._view.generation,
                revision=revision,
                as_of=None,
                catalogs=tuple(s for s in states if isinstance(s, feed.CatalogRevision)),
                customers=tuple(
                    s for s in states if isinstance(s, feed.CustomerState) and s.customer_id in changed
                ),
                subjects=(),
            )
        )
        self._known_catalogs = catalogs
