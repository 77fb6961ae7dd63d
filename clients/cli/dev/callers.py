"""Apps beside their sidecars. Whatever has no answer is asked again with the same key, until it has one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Final, TypeVar

import purser
from clients.cli.dev.heard import Acknowledged, Heard
from clients.cli.dev.people import EVENT, FEATURE, INCLUDED, MODEL

Answer = TypeVar("Answer")
PATIENCE_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.1
CALL_SECONDS: Final = 10.0


class NobodyAnswers(RuntimeError):
    """A sidecar stayed away for longer than the demo waits."""


def _connect(address: str) -> purser.Client:
    return purser.Client(address, timeout=CALL_SECONDS)


class Callers:
    """Speaks to each sidecar through a client of its own and notes what it is told. Safe to share between threads."""

    def __init__(
        self,
        addresses: Sequence[str],
        heard: Heard,
        *,
        connect: Callable[[str], purser.Client] = _connect,
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connects when the first call is made."""
        self.heard = heard
        self._clients = [connect(address) for address in addresses]
        self._clock, self._wait = clock, wait

    def close(self) -> None:
        """Closes the connections."""
        for client in self._clients:
            client.close()

    def __len__(self) -> int:
        return len(self._clients)

    def check(self, sidecar: int, customer_id: str, **fields: object) -> purser.Decision:
        """Asks without using anything."""
        client = self._clients[sidecar]
        return self._until_answered(
            "CheckAccess",
            lambda: client.check(customer_id=customer_id, **fields),  # type: ignore[arg-type]
        )

    def reserve(
        self, sidecar: int, customer_id: str, reservation_id: str, measures: Mapping[str, str]
    ) -> purser.Reservation:
        """Holds an estimate; falsy when refused."""
        client = self._clients[sidecar]
        held = self._until_answered(
            "ReserveUsage",
            lambda: client.reserve(
                reservation_id=reservation_id,
                customer_id=customer_id,
                feature=FEATURE,
                event_name=EVENT,
                measures=measures,
                attributes={"model": MODEL},
            ),
        )
        self.heard.decided(customer_id, allowed=bool(held), reason=held.decision.reason)
        return held

    def settle(
        self,
        sidecar: int,
        customer_id: str,
        reservation_id: str,
        measures: Mapping[str, str],
        *,
        final: bool,
    ) -> purser.Settlement:
        """Says what was used so far. The final one makes the event."""
        client = self._clients[sidecar]
        settled = self._until_answered(
            "SettleReservation",
            lambda: client.settle(
                reservation_id=reservation_id,
                final=final,
                customer_id=customer_id,
                event_name=EVENT,
                measures=measures,
                attributes={"model": MODEL},
            ),
        )
        overage = {balance: amount.value for balance, amount in settled.overage.items()}
        self.heard.settled(customer_id, overage, final=final)
        if final:
            key = settled.recorded_as or reservation_id
            included = settled.charged.get(INCLUDED)
            self.heard.acknowledged(
                Acknowledged(
                    customer_id,
                    key,
                    measures,
                    MODEL,
                    decided=not settled.recorded_as,
                    included=included.value if included else Decimal(0),
                    beyond=overage.get(INCLUDED, Decimal(0)),
                )
            )
        return settled

    def consume(
        self, sidecar: int, customer_id: str, key: str, measures: Mapping[str, str]
    ) -> purser.Decision:
        """Checks and records in one step."""
        client = self._clients[sidecar]
        answer = self._until_answered(
            "ConsumeUsage",
            lambda: client.consume(
                idempotency_key=key,
                customer_id=customer_id,
                feature=FEATURE,
                event_name=EVENT,
                measures=measures,
                attributes={"model": MODEL},
            ),
        )
        self.heard.decided(customer_id, allowed=answer.allowed, reason=answer.reason)
        if answer:
            self.heard.acknowledged(Acknowledged(customer_id, key, measures, MODEL, decided=True))
        return answer

    def report(
        self, sidecar: int, customer_id: str, key: str, measures: Mapping[str, str]
    ) -> purser.ReportResult:
        """Records what has happened already."""
        client = self._clients[sidecar]
        result = self._until_answered(
            "ReportUsage",
            lambda: client.report(
                idempotency_key=key,
                customer_id=customer_id,
                event_name=EVENT,
                measures=measures,
                attributes={"model": MODEL},
            ),
        )
        self.heard.decided(customer_id, allowed=bool(result), reason=result.reason)
        if result:
            self.heard.acknowledged(Acknowledged(customer_id, key, measures, MODEL, decided=False))
        return result

    def _until_answered(self, rpc: str, call: Callable[[], Answer]) -> Answer:
        asked_at = self._clock()
        while True:
            began = self._clock()
            try:
                answer = call()
            except purser.Overloaded as error:
                pause = error.retry_after.total_seconds() if error.retry_after else PAUSE_SECONDS
                self._again(rpc, asked_at, pause, error)
            except (purser.Unavailable, purser.DeadlineExceeded) as error:
                self._again(rpc, asked_at, PAUSE_SECONDS, error)
            else:
                self.heard.took(rpc, round((self._clock() - began) * 1_000_000))
                return answer

    def _again(self, rpc: str, asked_at: float, pause_seconds: float, error: Exception) -> None:
        if self._clock() - asked_at > PATIENCE_SECONDS:
            raise NobodyAnswers(f"{rpc} had no answer for {PATIENCE_SECONDS:.0f} s: {error}") from error
        self.heard.unknown()
        self._wait(pause_seconds)
