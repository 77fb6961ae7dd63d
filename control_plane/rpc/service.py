"""purser.sync.v1.SyncService: decode, one call, encode."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import structlog

from control_plane.db.unit_of_work import Database
from control_plane.feed.poller import Poller
from control_plane.leases.acquire import Acquiring
from control_plane.leases.installation import check_installation
from control_plane.leases.sessions import close_session, open_session
from control_plane.leases.settings import LeaseSettings
from control_plane.rpc.follow import FollowContext, first_of, follow
from control_plane.rpc.status import UNFORESEEN, row_for, status_of
from control_plane.rpc.validate import check
from control_plane.usage.refusals import report_refusals
from control_plane.usage.report import report_batch
from purser.sync.v1 import feed_pb2, session_pb2, usage_pb2
from purser.sync.v1.sync_service_pb2_grpc import SyncServiceServicer

Answer = TypeVar("Answer")
Context = grpc.aio.ServicerContext[Any, Any]
Request = (
    session_pb2.OpenSessionRequest
    | session_pb2.CloseSessionRequest
    | session_pb2.AcquireLeasesRequest
    | usage_pb2.ReportBatchRequest
    | usage_pb2.ReportRefusalsRequest
)


class SyncService(SyncServiceServicer):
    """What sidecars ask. One per process."""

    def __init__(
        self, database: Database, poller: Poller, settings: LeaseSettings, installation_id: str
    ) -> None:
        self._database = database
        self._poller = poller
        self._settings = settings
        self._acquiring = Acquiring(database, settings)
        self._installation_id = installation_id

    async def OpenSession(
        self, request: session_pb2.OpenSessionRequest, context: Context
    ) -> session_pb2.OpenSessionResponse:
        async def work() -> session_pb2.OpenSessionResponse:
            response = await self._database.transact(lambda uow: open_session(uow, request, self._settings))
            response.installation_id = self._installation_id
            return response

        return await self._answer(context, request, work)

    async def CloseSession(
        self, request: session_pb2.CloseSessionRequest, context: Context
    ) -> session_pb2.CloseSessionResponse:
        return await self._answer(
            context, request, lambda: self._database.transact(lambda uow: close_session(uow, request))
        )

    async def AcquireLeases(
        self, request: session_pb2.AcquireLeasesRequest, context: Context
    ) -> session_pb2.AcquireLeasesResponse:
        return await self._answer(
            context,
            request,
            lambda: self._acquiring.acquire(request, seconds=context.time_remaining()),
        )

    async def ReportBatch(
        self, request: usage_pb2.ReportBatchRequest, context: Context
    ) -> usage_pb2.ReportBatchResponse:
        return await self._answer(
            context, request, lambda: self._database.transact(lambda uow: report_batch(uow, request))
        )

    async def ReportRefusals(
        self, request: usage_pb2.ReportRefusalsRequest, context: Context
    ) -> usage_pb2.ReportRefusalsResponse:
        return await self._answer(
            context,
            request,
            lambda: self._database.transact(lambda uow: report_refusals(uow, request)),
        )

    async def Follow(  # type: ignore[override] # it writes by itself, and does not yield: each write has a time limit
        self, requests: AsyncIterator[feed_pb2.FollowRequest], context: FollowContext
    ) -> None:
        async def work() -> None:
            start = await first_of(requests)
            check_installation(self._installation_id, start.holder)
            await follow(self._database, self._poller, start, requests, context)

        await _answer(context, work)

    async def _answer(
        self, context: Context, request: Request, work: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        async def ours() -> Answer:
            check(request)
            check_installation(self._installation_id, request.holder)
            return await work()

        return await _answer(context, ours)


async def _answer(context: Context, work: Callable[[], Awaitable[Answer]]) -> Answer:
    try:
        return await work()
    except Exception as error:  # the edge: whatever it is becomes a status
        if row_for(error) is UNFORESEEN:
            structlog.get_logger("control_plane.rpc").exception("rpc_failed")
        await context.abort_with_status(status_of(error))
        raise
