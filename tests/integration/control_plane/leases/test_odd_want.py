"""One want that can not be answered is refused alone, on both databases."""

from sqlalchemy import text

from control_plane.db.unit_of_work import Database
from control_plane.faults import Faults
from purser.sync.v1 import session_pb2 as session
from tests.integration.control_plane.leases.holder import SETTINGS, Holder, acquiring, check_books, ref
from tests.integration.control_plane.leases.test_acquire import allotted, prepaid


async def test_the_others_get_theirs(database: Database) -> None:
    """Of three wants one is of a customer whose rows can not be read: it is refused for a while, logged and counted."""
    for name in ("ada", "odd", "zoe"):
        await prepaid(database, name)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("zoe"), 100)).leases[0].lease_id
    async with database.begin() as uow:
        await uow.connection.execute(text("UPDATE grants SET scope = '?' WHERE customer_id = 'odd'"))
    request = holder.request(ref("ada"), 400, returns=[holder.give_back(lease, 100)])
    for name, need in (("odd", 400), ("zoe", 500)):
        request.wants.append(session.Want(ref=ref(name), feature="api", need=need, amount=need))

    answers = (await acquiring(database, SETTINGS).acquire(request)).acquired
    assert [allotted(answer) for answer in answers] == [400, 0, 500]
    assert answers[1].refusal.kind == session.REFUSAL_KIND_FAILED
    assert answers[1].refusal.retry_after.ToTimedelta() == SETTINGS.retry_after
    assert database.kept(Faults).counted == {"want": 1}
    again = (await acquiring(database, SETTINGS).acquire(request)).acquired
    assert list(again) == list(answers)
    async with database.begin() as uow:
        await uow.connection.execute(text("UPDATE grants SET scope = '[]' WHERE customer_id = 'odd'"))
    await check_books(database)
