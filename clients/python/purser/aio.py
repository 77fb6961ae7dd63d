"""The client for asyncio: as `purser.client`, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Generator, Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from types import TracebackType
from typing import Self, Unpack

import grpc
import grpc.aio

from purser import messages, types
from purser.errors import raising
from purser.v1 import entitlement_service_pb2 as rpc_pb2
from purser.v1 import entitlement_service_pb2_grpc as rpc_grpc


class Client:
    """Asks the sidecar at `target` (`host:port` or `unix:path`).

    Belongs to the event loop that it is first used in. Calls wait at most `timeout` seconds and are repeated while the
    sidecar is away: a repeat carries the same key, so nothing is counted twice. Raises the errors of `purser.errors`,
    and a ValueError for a `target` that is none.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:7070",
        *,
        timeout: float = 5.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._target = messages.target(target, "target")
        options = messages.CHANNEL_OPTIONS
        self._channel = (
            grpc.aio.secure_channel(target, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(target, options)
        )
        self._stub = rpc_grpc.EntitlementServiceStub(self._channel)
        self._timeout = timeout

    async def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def check(self, **fields: Unpack[types.CheckFields]) -> types.Decision:
        """May this be done? Advisory: nothing is recorded or held."""
        with raising(self._target):
            response = await self._stub.CheckAccess(messages.check(fields), timeout=self._timeout)
        return messages.decision(response.decision)

    async def require(self, **fields: Unpack[types.CheckFields]) -> types.Decision:
        """As `check`, but a refusal raises `AccessDenied`."""
        return messages.require(await self.check(**fields))

    async def check_batch(self, checks: Iterable[types.CheckFields]) -> list[types.Decision]:
        """Up to 1,000 checks in one call, answered in order."""
        request = rpc_pb2.BatchCheckAccessRequest(requests=map(messages.check, checks))
        with raising(self._target):
            response = await self._stub.BatchCheckAccess(request, timeout=self._timeout)
        return list(map(messages.decision, response.decisions))

    async def consume(
        self,
        *,
        feature: str = "",
        min_revision: int | None = None,
        explain: bool = False,
        **event: Unpack[types.EventFields],
    ) -> types.Decision:
        """Check and record in one atomic step. Without an `idempotency_key` one is made, once for all tries."""
        request = messages.consume(event, feature, min_revision, explain=explain)
        with raising(self._target):
            return messages.consumed(await self._stub.ConsumeUsage(request, timeout=self._timeout))

    async def report(self, **event: Unpack[types.EventFields]) -> types.ReportResult:
        """Record one thing that has happened already: never refused for lack of balance."""
        return (await self.report_batch([event]))[0]

    async def report_batch(self, events: Iterable[types.EventFields]) -> list[types.ReportResult]:
        """Record up to 1,000 events in one call, answered in order."""
        with raising(self._target):
            response = await self._stub.ReportUsage(messages.report(events), timeout=self._timeout)
        return list(map(messages.report_result, response.results))

    def reserve(
        self,
        *,
        reservation_id: str = "",
        feature: str = "",
        ttl: timedelta | None = None,
        min_revision: int | None = None,
        explain: bool = False,
        **event: Unpack[types.EventFields],
    ) -> Reserving:
        """Hold an estimate for a call whose cost is known afterwards: await it, or use it with `async with`."""
        return Reserving(
            self._reserve(
                messages.reserve(event, reservation_id, feature, ttl, min_revision, explain=explain)
            )
        )

    async def _reserve(self, request: rpc_pb2.ReserveUsageRequest) -> Reservation:
        with raising(self._target):
            response = await self._stub.ReserveUsage(request, timeout=self._timeout)
        return Reservation(self, request.reservation_id, response)

    async def settle(
        self, *, reservation_id: str, final: bool = True, **event: Unpack[types.EventFields]
    ) -> types.Settlement:
        """Say what a reservation has used so far: cumulative measures. `final` makes its one event."""
        request = messages.settle(event, reservation_id, final=final)
        with raising(self._target):
            return messages.settlement(await self._stub.SettleReservation(request, timeout=self._timeout))

    async def extend(
        self, *, reservation_id: str, ttl: timedelta | None = None, **event: Unpack[types.EventFields]
    ) -> tuple[types.Decision | None, types.ReservationState]:
        """More time from now, or a larger estimate; the decision is None when no estimate was given."""
        request = messages.extend(event, reservation_id, ttl)
        with raising(self._target):
            return messages.extended(await self._stub.ExtendReservation(request, timeout=self._timeout))

    async def release(self, *, reservation_id: str) -> types.ReservationState:
        """Give a reservation up: what it had settled is charged, the rest goes back."""
        request = rpc_pb2.ReleaseReservationRequest(reservation_id=reservation_id)
        with raising(self._target):
            response = await self._stub.ReleaseReservation(request, timeout=self._timeout)
        return messages.reservation(response.reservation)

    async def entitlements(self, *, customer_id: str = "", subject_id: str = "") -> types.Entitlements:
        """What somebody is entitled to, with sources and balances."""
        request = rpc_pb2.ListEntitlementsRequest(customer_id=customer_id, subject_id=subject_id)
        with raising(self._target):
            return messages.entitlements(await self._stub.ListEntitlements(request, timeout=self._timeout))

    async def watch(
        self, *, customer_id: str = "", subject_id: str = ""
    ) -> AsyncIterator[types.Entitlements]:
        """The same, now and after each change, until the iterator is closed or the sidecar goes away."""
        request = rpc_pb2.WatchEntitlementsRequest(customer_id=customer_id, subject_id=subject_id)
        stream = self._stub.WatchEntitlements(request)
        try:
            with raising(self._target):
                async for response in stream:
                    yield messages.entitlements(response)
        finally:
            stream.cancel()


class Reserving:
    """A reservation that is being asked for."""

    def __init__(self, call: Coroutine[None, None, Reservation]) -> None:
        self._call = call
        self._reservation: Reservation | None = None

    def __await__(self) -> Generator[None, None, Reservation]:
        return self._call.__await__()

    async def __aenter__(self) -> Reservation:
        self._reservation = await self._call
        return self._reservation

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reservation is not None:
            await self._reservation.__aexit__(kind, error, trace)


class Reservation:
    """A hold under way.

    As a context manager it ends by itself: settled for good with the last measures, or released when nothing was
    settled or an exception passes through (what was settled until then is charged).
    """

    def __init__(self, client: Client, reservation_id: str, response: rpc_pb2.ReserveUsageResponse) -> None:
        self._client = client
        self.reservation_id = reservation_id
        self.decision = messages.decision(response.decision)
        self.state = messages.reservation(response.reservation)
        self._last: types.EventFields | None = None
        self._closed = not self.decision.allowed

    def __bool__(self) -> bool:
        return self.decision.allowed

    async def settle(
        self,
        measures: Mapping[str, Decimal | int | str],
        *,
        attributes: Mapping[str, str] | None = None,
        final: bool = False,
    ) -> types.Settlement:
        """What was used so far, cumulative; `final` when nothing more comes."""
        event: types.EventFields = {"measures": measures, "attributes": attributes or {}}
        settlement = await self._client.settle(reservation_id=self.reservation_id, final=final, **event)
        self.state, self._last, self._closed = settlement.reservation, event, final
        return settlement

    async def extend(self, ttl: timedelta) -> types.ReservationState:
        """More time, from now."""
        _, self.state = await self._client.extend(reservation_id=self.reservation_id, ttl=ttl)
        return self.state

    async def release(self) -> types.ReservationState:
        """Give it up."""
        self.state = await self._client.release(reservation_id=self.reservation_id)
        self._closed = True
        return self.state

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closed:
            return
        if kind is None and self._last is not None:
            await self._client.settle(reservation_id=self.reservation_id, final=True, **self._last)
        else:
            await self.release()
