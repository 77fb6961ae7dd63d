"""Random histories of the outbox, with crashes and failing commits, against a dictionary."""

import itertools
import shutil
import sqlite3
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.port import (
    KeyEntry,
    KeyTaken,
    OutcomeUnknown,
    Reservation,
    ReservationMoved,
    Write,
    WriteResult,
    Written,
)
from sidecar.runtime.trouble import NotWritten
from tests.unit.sidecar.outbox.faults import Faults, error
from tests.unit.sidecar.outbox.opening import opened_outbox

KEYS = [f"k{n}" for n in range(12)]
RESERVATIONS = ["r1", "r2", "r3"]


class OutboxMachine(RuleBasedStateMachine):
    """Writes one and many, kills, restarts, fails at COMMIT or before it, acknowledges, sets aside."""

    @initialize()
    def begin(self) -> None:
        """An empty folder."""
        self.folder = Path(tempfile.mkdtemp())
        self.numbers = itertools.count(1)
        self.faults = Faults()
        self.records: list[str] = []
        self.acknowledged: set[str] = set()
        self.keys: dict[str, bytes] = {}
        self.reservations: dict[str, Reservation] = {}
        self._open()

    def _open(self) -> None:
        self.outbox = opened_outbox(self.folder, self.numbers, connect=self.faults.connect)

    def teardown(self) -> None:
        """Leaves nothing behind."""
        if hasattr(self, "outbox"):
            self.outbox.close()
            shutil.rmtree(self.folder)

    @rule(
        wanted=st.lists(
            st.tuples(
                st.sampled_from(KEYS), st.booleans(), st.sampled_from([*RESERVATIONS, ""]), st.integers(0, 1)
            ),
            min_size=1,
            max_size=6,
        ),
        trouble=st.sampled_from(["", "", "", "before", "at commit", "after commit"]),
    )
    def write(self, wanted: list[tuple[str, bool, str, int]], trouble: str) -> None:
        """Several writes in one go: each is applied in whole or finds what stands in its way."""
        writes = []
        for key, has_key, reservation_id, skew in wanted:
            stored = self.reservations.get(reservation_id)
            version = (0 if stored is None else stored.version) + 1 + skew
            writes.append(
                Write(
                    usage=usage.Usage(decision_id=key).SerializeToString(),
                    key=KeyEntry("acme", key, b"h", f"a{next(self.numbers)}".encode()) if has_key else None,
                    reservation=Reservation(reservation_id, version, True, b"s") if reservation_id else None,
                )
            )
        self._fail(trouble)
        try:
            results = self.outbox.commit_all(writes)
        except NotWritten:
            assert trouble == "before"
        except OutcomeUnknown as unknown:
            applied = unknown.resolution.applied
            assert {True: "after commit", False: "at commit"}.get(applied is True) == trouble
            for write in writes if applied else ():
                self._expect(write)
        else:
            assert not trouble
            for write, result in zip(writes, results, strict=True):
                assert self._expect(write, result) == result
        self.faults.heal()
        self.outbox._writer.step(timeout_seconds=0)
        assert self.outbox.is_healthy

    def _fail(self, trouble: str) -> None:
        broken = error(sqlite3.SQLITE_IOERR, "disk I/O error")
        word = {"before": "UPDATE incarnations SET last_seq", "at commit": "COMMIT"}.get(trouble, "")

        def before(sql: str) -> None:
            if word and sql.startswith(word):
                self.faults.heal()
                raise broken

        def after() -> None:
            self.faults.heal()
            raise broken

        self.faults.before = before
        if trouble == "after commit":
            self.faults.after_commit = after

    def _expect(self, write: Write, result: WriteResult | None = None) -> WriteResult | None:
        """What the model says should come of it; applies it to the model."""
        key, reservation = write.key, write.reservation
        if key is not None and key.key in self.keys:
            return KeyTaken(KeyEntry("acme", key.key, b"h", self.keys[key.key]))
        if reservation is not None:
            stored = self.reservations.get(reservation.reservation_id)
            if (0 if stored is None else stored.version) != reservation.version - 1:
                return ReservationMoved(stored)
            self.reservations[reservation.reservation_id] = reservation
        if key is not None:
            self.keys[key.key] = key.answer
        self.records.append(usage.Usage.FromString(write.usage).decision_id)
        return result if isinstance(result, Written) else None

    @rule()
    def kill_and_restart(self) -> None:
        """The process is gone without a word; the next one reads what is there."""
        self.outbox._lock_file.close()
        self._open()

    @precondition(lambda self: len(self.records) > 0)
    @rule(part=st.integers(1, 5))
    def acknowledge(self, part: int) -> None:
        """The control plane has the next few."""
        for incarnation in self.outbox.incarnations():
            if incarnation.cursor < incarnation.last_seq:
                self.outbox.acknowledge(
                    incarnation.incarnation_id, min(incarnation.last_seq, incarnation.cursor + part)
                )
                return

    @rule()
    def set_aside(self) -> None:
        """The file can not be trusted; everything readable is there again, acknowledged or not."""
        self.outbox.set_aside("test")

    @invariant()
    def everything_is_there_once(self) -> None:
        """Keys, reservations and records are the model's; every record is there once, numbered without gaps."""
        if not hasattr(self, "outbox"):
            return
        assert {k: self.outbox.key("acme", k) for k in KEYS} == {
            k: KeyEntry("acme", k, b"h", self.keys[k]) if k in self.keys else None for k in KEYS
        }
        assert {r.reservation_id: r for r in self.outbox.open_reservations()} == self.reservations
        connection = self.outbox._file.connection
        found = []
        for incarnation in self.outbox.incarnations():
            (no,) = connection.execute(
                "SELECT no FROM incarnations WHERE incarnation_id = ?", (incarnation.incarnation_id,)
            ).fetchone()
            rows = connection.execute(
                "SELECT id, body FROM records WHERE id >> 40 = ? ORDER BY id", (no,)
            ).fetchall()
            assert [row_id & (1 << 40) - 1 for row_id, _ in rows] == list(range(1, incarnation.last_seq + 1))
            found += [usage.Record.FromString(body).usage.decision_id for _, body in rows]
        assert sorted(found) == sorted(self.records)


OutboxMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestOutbox = OutboxMachine.TestCase
