"""What callers asked and what they were told, kept outside of the system."""

import json
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Self


class Told(StrEnum):
    """How one call ended, for its caller."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    FAILED = "failed"
    """A status that says that nothing was written."""
    UNKNOWN = "unknown"


class Verb(StrEnum):
    """What was asked."""

    CHECK = "check"
    CONSUME = "consume"
    REPORT = "report"
    RESERVE = "reserve"
    EXTEND = "extend"
    SETTLE = "settle"
    RELEASE = "release"
    ADD = "add"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One thing that was asked of one sidecar; of a batch, one of its events."""

    verb: Verb
    sidecar: str
    customer_id: str
    key: str
    """The idempotency key, or the reservation's id."""
    points: int = 0
    """Of an event or an estimate; of a settle its totals."""
    is_final: bool = False
    ttl_seconds: float = 0.0
    holder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was told. Without one a call's outcome is unknown."""

    told: Told
    why: str = ""
    """The reason of a refusal, or the status of a failure."""
    is_duplicate: bool = False
    state: str = ""
    """Of the reservation; empty: none is known."""
    recorded_as: str = ""
    covered: Decimal = Decimal(0)
    """Of a settle: what it says is charged and covered by leases."""


UNANSWERED = Answer(told=Told.UNKNOWN, why="no answer yet")


@dataclass(slots=True)
class Call:
    """A call and its end."""

    number: int
    asked: Asked
    asked_at: float
    answer: Answer = UNANSWERED
    told_at: float | None = None

    @property
    def told(self) -> Told:
        """How it ended."""
        return self.answer.told


@dataclass(frozen=True, slots=True)
class Account:
    """What a customer has, by the catalog's text."""

    customer_id: str
    balance: str
    """To which jobs are charged."""
    price: Decimal
    """Of a point."""
    limit: Decimal
    """What the balance has from the beginning, without grants."""
    seats: int = 0


@dataclass(slots=True)
class Granted:
    """A top-up; it can be spent from the moment that it was asked for."""

    grant_id: str
    customer_id: str
    amount: Decimal
    asked_at: float
    is_known: bool = False


@dataclass(frozen=True, slots=True)
class LostDisk:
    """All that this sidecar had on its disk went then."""

    sidecar: str
    at: float
    is_remote: bool = False
    """But what it had acknowledged as used was in the books."""
    booked: frozenset[str] = frozenset()
    """Keys that were asked there, and were in the books by then."""
    incarnations: frozenset[str] = frozenset()
    """Of the processes that had written on it."""


@dataclass(slots=True)
class Outage:
    """A sidecar's process was ended, by a signal."""

    sidecar: str
    since: float
    """Before the signal."""
    launched_at: float | None = None
    """When the next one was started; it serves later. None: not yet."""


@dataclass(slots=True)
class History:
    """Everything that callers know. Thread-safe; with a file, every line is in it before the next thing happens."""

    path: Path | None = None
    calls: list[Call] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    grants: list[Granted] = field(default_factory=list)
    lost_disks: list[LostDisk] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def has_account(self, account: Account) -> None:
        """A customer is there from now on."""
        with self._lock:
            self.accounts[account.customer_id] = account
            self._write("account", asdict(account))

    def grants_amount(self, grant_id: str, customer_id: str, amount: Decimal) -> Granted:
        """A top-up is on its way."""
        with self._lock:
            granted = Granted(grant_id, customer_id, amount, time.monotonic())
            self.grants.append(granted)
            self._write("grant", asdict(granted))
        return granted

    def granted(self, granted: Granted) -> None:
        """It was acknowledged."""
        with self._lock:
            granted.is_known = True
            self._write("granted", {"grant_id": granted.grant_id})

    def loses_disk(
        self,
        sidecar: str,
        *,
        is_remote: bool = False,
        booked: Collection[str] = (),
        incarnations: Collection[str] = (),
    ) -> None:
        """The process is dead, and its folder gone. `booked`: keys of any events in the books by now."""
        with self._lock:
            there = [call for call in self.calls if call.asked.sidecar == sidecar]
            mine = {call.asked.key for call in there} | {call.answer.recorded_as for call in there}
            lost = LostDisk(
                sidecar, time.monotonic(), is_remote, frozenset(mine & set(booked)), frozenset(incarnations)
            )
            self.lost_disks.append(lost)
            sets = {"booked": sorted(lost.booked), "incarnations": sorted(lost.incarnations)}
            self._write("lost_disk", {**asdict(lost), **sets})

    def ends(self, sidecar: str) -> None:
        """Its process is about to be killed, or asked to end."""
        with self._lock:
            outage = Outage(sidecar, time.monotonic())
            self.outages.append(outage)
            self._write("ends", {"sidecar": sidecar, "at": outage.since})

    def launches(self, sidecar: str) -> None:
        """Its process is gone, and the next one is about to start."""
        with self._lock:
            at = time.monotonic()
            self._launched(sidecar, at)
            self._write("launches", {"sidecar": sidecar, "at": at})

    def _launched(self, sidecar: str, at: float) -> None:
        for outage in self.outages:
            if outage.sidecar == sidecar and outage.launched_at is None:
                outage.launched_at = at

    def ask(self, asked: Asked) -> Call:
        """A call is about to be made."""
        with self._lock:
            call = Call(len(self.calls), asked, time.monotonic())
            self.calls.append(call)
            self._write("asked", {"call": call.number, "at": call.asked_at, **asdict(asked)})
        return call

    def tell(self, call: Call, answer: Answer) -> None:
        """Its caller heard this."""
        with self._lock:
            call.answer, call.told_at = answer, time.monotonic()
            self._write("told", {"call": call.number, "at": call.told_at, **asdict(answer)})

    def _write(self, kind: str, fields: Mapping[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"kind": kind, **fields}, default=str) + "\n")

    @classmethod
    def of_all(cls, histories: Iterable[Self]) -> Self:
        """Several that were written one after the other, as one."""
        whole = cls()
        for history in histories:
            whole.calls += [
                replace(call, number=len(whole.calls) + n) for n, call in enumerate(history.calls)
            ]
            whole.accounts |= history.accounts
            whole.grants += history.grants
            whole.lost_disks += history.lost_disks
            whole.outages += history.outages
        return whole

    @classmethod
    def read(cls, path: Path) -> Self:
        """The history of a file, for who looks at one later."""
        history = cls()
        for line in path.read_text().splitlines():
            fields = json.loads(line)
            _READERS[fields.pop("kind")](history, fields)
        return history


def _read_account(history: History, fields: dict[str, Any]) -> None:
    numbers = {name: Decimal(fields[name]) for name in ("price", "limit")}
    history.accounts[fields["customer_id"]] = Account(**{**fields, **numbers})


def _read_grant(history: History, fields: dict[str, Any]) -> None:
    history.grants.append(Granted(**{**fields, "amount": Decimal(fields["amount"])}))


def _read_granted(history: History, fields: dict[str, Any]) -> None:
    next(one for one in history.grants if one.grant_id == fields["grant_id"]).is_known = True


def _read_lost_disk(history: History, fields: dict[str, Any]) -> None:
    sets = {name: frozenset(fields[name]) for name in ("booked", "incarnations")}
    history.lost_disks.append(LostDisk(**{**fields, **sets}))


def _read_ends(history: History, fields: dict[str, Any]) -> None:
    history.outages.append(Outage(fields["sidecar"], fields["at"]))


def _read_launches(history: History, fields: dict[str, Any]) -> None:
    history._launched(fields["sidecar"], fields["at"])


def _read_asked(history: History, fields: dict[str, Any]) -> None:
    number, at = fields.pop("call"), fields.pop("at")
    history.calls.append(Call(number, Asked(**{**fields, "verb": Verb(fields["verb"])}), at))


def _read_told(history: History, fields: dict[str, Any]) -> None:
    call = history.calls[fields.pop("call")]
    call.told_at = fields.pop("at")
    read = {"told": Told(fields["told"]), "covered": Decimal(fields["covered"])}
    call.answer = Answer(**{**fields, **read})


_READERS = {
    "account": _read_account,
    "grant": _read_grant,
    "granted": _read_granted,
    "lost_disk": _read_lost_disk,
    "ends": _read_ends,
    "launches": _read_launches,
    "asked": _read_asked,
    "told": _read_told,
}
