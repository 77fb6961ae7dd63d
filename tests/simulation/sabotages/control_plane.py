"""Ways to break the control plane."""

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Any
from unittest import mock

from sqlalchemy import delete, select

from control_plane.leases import acquire, asked, gauges, grant, quarantine, replies, sessions, tables
from control_plane.leases.grant import Granting
from control_plane.leases.rates import Bucket
from control_plane.leases.restored import Pause
from control_plane.leases.rows import OPEN, LeaseRow
from control_plane.leases.settle import Freed
from control_plane.leases.tables import holder_key, lease_requests
from control_plane.ledger import limits, opening
from control_plane.ledger.holding import Holding
from control_plane.ledger.in_force import limits_now
from control_plane.ledger.rows import GrantRow, in_burn_order
from control_plane.usage import keys, report
from control_plane.usage.appends import Appends
from control_plane.usage.booking import _Booking
from control_plane.usage.tables import events
from purser.sync.v1 import session_pb2 as session
from tests.simulation.sabotages.registry import sabotage


@sabotage("silence", seed=3, breaks="free again:|oversold")
def expired_leases_given_back() -> Iterator[None]:
    """What an expired lease had left is free for others: its holder may have spent it."""
    real = quarantine._one

    def one(freed: Freed, lease: LeaseRow, *rest: Any) -> None:
        if lease.state == OPEN:
            freed.close(lease)
        else:
            real(freed, lease, *rest)

    with mock.patch.object(quarantine, "_one", one):
        yield


@sabotage("vanish", breaks="stranded:")
def quarantine_never_ends() -> Iterator[None]:
    """What a sidecar took with it is never booked, nor free."""
    real = quarantine._one

    def one(freed: Freed, lease: LeaseRow, *rest: Any) -> None:
        if lease.state == OPEN or not lease.unsettled:
            real(freed, lease, *rest)

    with mock.patch.object(quarantine, "_one", one):
        yield


@sabotage("silence", breaks="answered in two ways")
def no_replay_of_request_ids() -> Iterator[None]:
    """A repeated request is granted once more."""

    async def stored(*_: Any) -> dict[Any, bytes]:
        return {}

    async def store(uow: Any, made: Any) -> None:
        names = [reply.request_id for reply in made]
        await uow.connection.execute(delete(lease_requests).where(lease_requests.c.request_id.in_(names)))
        await replies.store_replies(uow, made)

    with (
        mock.patch.object(acquire, "stored_replies", stored),
        mock.patch.object(acquire, "store_replies", store),
    ):
        yield


@sabotage(seed=8, breaks="answered in two ways")
def a_round_mixes_up_its_askers() -> Iterator[None]:
    """Of those who are answered together each hears the answer of the next."""
    real = acquire.Acquiring._round

    async def answer(self: acquire.Acquiring, asks: Any) -> Any:
        answers = list(await real(self, asks))
        return answers[1:] + answers[:1]

    with mock.patch.object(acquire.Acquiring, "_round", answer):
        yield


@sabotage("kill", "silence", seed=89, breaks="incarnation that is")
def no_epoch_fence() -> Iterator[None]:
    """An earlier incarnation acquires as before."""

    async def fetch(uow: Any, requests: Any) -> Any:
        rows = [await sessions.lock_session(uow, request.holder) for request in requests]
        return {holder_key(row): row for row in rows if row is not None}

    with mock.patch.object(acquire, "acquiring_sessions", fetch):
        yield


@sabotage("put_back", seed=41, breaks="lost:|oversold|free again:|not sent")
def rolled_back_disk_goes_on() -> Iterator[None]:
    """A disk that was put back is taken for what it was."""
    with mock.patch.object(sessions, "_rolled_back", return_value=False):
        yield


@sabotage("vanish", breaks="lost:")
def a_new_disk_takes_the_place_of_the_old() -> Iterator[None]:
    """What the books had of a sidecar's former disk goes with it."""
    real = sessions.open_session

    async def opened(uow: Any, request: session.OpenSessionRequest, *settings: Any) -> Any:
        theirs = tables.sessions.c
        former = await uow.connection.execute(select(theirs.outbox_id).where(theirs.label == request.label))
        for outbox_id in {row.outbox_id for row in former} - {request.holder.outbox_id}:
            await uow.connection.execute(delete(events).where(events.c.uid.startswith(f"{outbox_id}/")))
        return await real(uow, request, *settings)

    with mock.patch("control_plane.rpc.service.open_session", opened):
        yield


@sabotage("put_back", seed=3, breaks="oversold")
def a_set_aside_outbox_is_closed() -> Iterator[None]:
    """What a disk forgot that was put back is free for others."""
    real = sessions._set_aside

    async def set_aside(uow: Any, outbox_id: str) -> None:
        for incarnation_id in await sessions._of_outbox(uow, outbox_id):
            holder = session.Holder(outbox_id=outbox_id, incarnation_id=incarnation_id)
            await sessions.close_leases(uow, holder, {})
        await real(uow, outbox_id)

    with mock.patch.object(sessions, "_set_aside", set_aside):
        yield


@sabotage(seed=1, breaks="leased is")
def slices_move_to_another_grant() -> Iterator[None]:
    """What comes back goes to the first grant of the balance."""

    def grants(freed: Freed, lease: LeaseRow, pieces: Collection[Any]) -> Any:
        known = freed.vault.held[lease.balance_id].grants
        first = known[min(known)]
        return [(first, piece) for piece in pieces]

    with mock.patch.object(Freed, "_grants", grants):
        yield


@sabotage(seed=1, breaks="leased is")
def facts_eat_leased_credit() -> Iterator[None]:
    """A fact burns what leases hold."""

    def draw(grant: GrantRow, amount: int) -> None:
        leased = min(amount, grant.leased)
        grant.leased -= leased
        grant.available -= amount - leased

    def held_by_none(_grant: GrantRow) -> int:
        return 0

    with (
        mock.patch.object(GrantRow, "held", property(held_by_none)),
        mock.patch.object(GrantRow, "draw", draw),
    ):
        yield


@sabotage("silence", "pause", "kill", seed=22, breaks="presumed is")
def the_truth_is_not_heard() -> Iterator[None]:
    """What was presumed to be spent stays so, whatever its holder says when it comes back."""

    def truth(*_: Any) -> None:
        return

    with mock.patch.object(Freed, "truth", truth):
        yield


@sabotage("pause", breaks="doubled:|mischarged:")
def keys_are_not_guarded() -> Iterator[None]:
    """The same key through two sidecars is booked twice."""
    standing, win = keys.Keys.standing, keys.Keys.win

    def stands(known: keys.Keys, item: Any) -> keys.Standing:
        found = standing(known, item)
        return keys.Standing.FIRST if found is keys.Standing.DUPLICATE else found

    def won(known: keys.Keys, item: Any) -> None:
        if known.winner(item) is None:
            win(known, item)

    with (
        mock.patch.object(keys.Keys, "standing", stands),
        mock.patch.object(keys.Keys, "win", won),
    ):
        yield


@sabotage("restore", seed=63, breaks="oversold:|was the limit")
def no_pause_after_a_restore() -> Iterator[None]:
    """A restored control plane leases at once what others hold."""
    none = Pause(timedelta(), timedelta())
    with mock.patch.object(acquire, "pause_of", return_value=none):
        yield


@sabotage("silence", breaks="not sent")
def cursors_are_not_checked() -> Iterator[None]:
    """A batch that comes again is booked again. Keys keep it from being charged twice; its sidecar goes in circles."""
    real = sessions.lock_or_make_session

    async def locked(uow: Any, holder: session.Holder) -> Any:
        row = await real(uow, holder)
        row.cursor = 0
        return row

    with mock.patch.object(report, "lock_or_make_session", locked):
        yield


@sabotage("limits", seed=5, breaks="was the limit")
def cuts_are_ignored() -> Iterator[None]:
    """A lower limit binds nobody."""

    def as_it_was(holding: Holding, *rest: Any) -> dict[str, int]:
        found = limits_now(holding, *rest)
        return {name: max(limit, holding.grants[name].target) for name, limit in found.items()}

    with (
        mock.patch.object(limits, "limits_now", as_it_was),
        mock.patch.object(opening, "limits_now", as_it_was),
    ):
        yield


@sabotage("set_wall", seed=3, breaks="were let through")
def rates_move_before_their_end() -> Iterator[None]:
    """What shares may still let through is handed out again."""
    real = Bucket.refill

    def refill(bucket: Bucket, now: Any) -> None:
        real(bucket, now)
        bucket.shares = []

    with mock.patch.object(Bucket, "refill", refill):
        yield


@sabotage(seed=4, breaks="hold seats")
def verdicts_hold_no_seat() -> Iterator[None]:
    """Only what is booked counts: two who ask at once get the same seat."""

    def counting(changes: Any) -> Any:
        return [change for change in changes if change.state is gauges.State.BOOKED]

    with mock.patch.object(gauges, "_counting", counting):
        yield


@sabotage(seed=22, breaks="spent of a grant")
def leases_outlive_their_grants() -> Iterator[None]:
    """A lease ends when it would, whatever becomes of its grant."""
    real = Granting._new_lease

    def made(self: Granting, holder: Any, item: Any, row: GrantRow) -> LeaseRow:
        lease = real(self, holder, item, row)
        lease.never_after = None
        lease.ends_at = lease.begins_at + self._settings.ttl
        return lease

    with mock.patch.object(Granting, "_new_lease", made):
        yield


@sabotage(seed=10, breaks="was the limit|never granted")
def grants_are_leased_before_they_begin() -> Iterator[None]:
    """A grant is leased as soon as it is there, whenever it begins."""

    def grants(one: asked.Asked) -> list[GrantRow]:
        known = one.holding.grants.values() if one.holding is not None else ()
        feature = one.want.feature
        return in_burn_order(
            grant
            for grant in known
            if grant.available and not grant.is_over(one.at) and grant.serves(feature)
        )

    with mock.patch.object(asked.Asked, "grants", grants):
        yield


@sabotage(breaks="mischarged:")
def facts_are_charged_twice() -> Iterator[None]:
    """What was reported costs double."""
    real = _Booking._fact

    def fact(booking: _Booking, item: Any, entry: Any, uncovered: Any) -> None:
        is_reported = uncovered.cause == "reported"
        amount = uncovered.amount * 2 if is_reported else uncovered.amount
        real(booking, item, entry, uncovered._replace(amount=amount))

    with mock.patch.object(_Booking, "_fact", fact):
        yield


@sabotage("silence", breaks="after its end")
def holders_are_told_later_ends() -> Iterator[None]:
    """A lease ends for its holder long after it ended in the books."""
    real = grant._leased

    def leased(*args: Any, **rest: Any) -> session.Acquired:
        acquired = real(*args, **rest)
        for lease in acquired.leases:
            if not lease.HasField("never_after"):
                ttl = lease.ttl.ToTimedelta()
                lease.ends_at.FromDatetime(lease.ends_at.ToDatetime() + ttl)
                lease.ttl.FromTimedelta(ttl * 2)
        return acquired

    with mock.patch.object(grant, "_leased", leased):
        yield


@sabotage(breaks="misdated:")
def events_get_a_false_instant() -> Iterator[None]:
    """The books say that it happened in another century."""
    real = Appends.event

    def event(appends: Appends, *args: Any, **rest: Any) -> Any:
        entry = real(appends, *args, **rest)
        one = appends._events[-1]
        one["occurred_at"] = one["occurred_at"].replace(year=1999)
        return entry

    with mock.patch.object(Appends, "event", event):
        yield
