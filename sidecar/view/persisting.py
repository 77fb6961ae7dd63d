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
CONFIRM_ROUNDS: Final = 40
"""The second tier is told of all that is held in so many rounds, two minutes: no state there that somebody follows is
much older.
"""


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
        self._to_confirm: list[tuple[bool, str]] = []
        self._confirmed_at_once = 0
        self._catalogs_due = 0.0
        self._known_catalogs = 0
        self._thread = threading.Thread(target=self._run, name="purser-snapshot", daemon=True)

    def load(self) -> bool:
        """Takes over what is on disk. An unusable file is set aside and reported. True: there is a view now."""
        try:
            stored = self._file.read()
            if stored is None:
                return self._load_from_second_tier()
            self._view.restore(stored)
        except (SnapshotUnusable, BadState) as error:
            aside = self._file.set_aside(self._wall_now())
            _log.error("the snapshot of the view was set aside", cause=str(error), now=str(aside))
            return self._load_from_second_tier()
        except OSError as error:
            _log.error("the snapshot of the view can not be read", cause=str(error))
            return self._load_from_second_tier()
        self._restored(stored)
        self._written_revision = stored.revision
        _log.info("started from the snapshot", revision=stored.revision, customers=len(stored.customers))
        return True

    def _load_from_second_tier(self) -> bool:
        """The catalogs; who asks for a customer gets it from there, too."""
        stored = None if self._second_tier is None else self._second_tier.catalogs()
        if stored is None:
            return False
        try:
            self._view.restore(stored)
        except BadState as error:
            _log.error("the catalogs in the second tier were not taken over", problem=str(error))
            return False
        self._restored(stored)
        _log.info("started from the second tier", revision=stored.revision)
        return True

    def _restored(self, stored: StoredView) -> None:
        self._view.pulse.restore(stored.as_of, wall_now=self._wall_now(), monotonic=self._monotonic())

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
        view, now = self._view, self._monotonic()
        # Before the states are read: they are as of this revision and this instant, or newer.
        generation, revision, as_of = view.generation, view.revision, view.pulse.as_of()
        if as_of is None:
            return
        some_customers, some_subjects = self._next_to_confirm()
        customers, subjects = view.states_of(changed.union(some_customers), some_subjects)
        catalogs: tuple[feed.CatalogRevision, ...] = ()
        if revision and (now >= self._catalogs_due or len(view.catalogs) != self._known_catalogs):
            catalogs = view.catalog_states()
            self._catalogs_due, self._known_catalogs = now + CONFIRM_EVERY_SECONDS, len(catalogs)
        if customers or subjects or catalogs:
            stored = StoredView(generation, revision, as_of, catalogs, tuple(customers), tuple(subjects))
            self._second_tier.store(stored)

    def _next_to_confirm(self) -> tuple[list[str], list[str]]:
        """Customers and subjects whose turn it is to be stored again though nothing changed."""
        if not self._to_confirm:
            customers, subjects, _ = self._view.held()
            self._to_confirm = [(True, key) for key in customers] + [(False, key) for key in subjects]
            self._confirmed_at_once = -(-len(self._to_confirm) // CONFIRM_ROUNDS)
        some, self._to_confirm = (
            self._to_confirm[: self._confirmed_at_once],
            self._to_confirm[self._confirmed_at_once :],
        )
        return [key for is_one, key in some if is_one], [key for is_one, key in some if not is_one]
