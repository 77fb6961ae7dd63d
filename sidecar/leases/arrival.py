"""What to make of a reply: what is installed, what goes back at once, what callers are told."""

from typing import Final

from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.leases.book import LeaseBook, Withdrawn
from sidecar.leases.requests import Request, Wanted
from sidecar.leases.terms import Acquired, Grade, RemoteFailure, RemoteVerdict
from sidecar.runtime.trouble import Refused, Unreachable

REMEMBERED_SECONDS: Final = 10.0
"""A final refusal is asked again after this long even if no hint came: hints can get lost."""
RATE_REMEMBERED_SECONDS: Final = 0.1

_GRADES: Final = {
    session.REFUSAL_KIND_EXHAUSTED: Grade.EXHAUSTED,
    session.REFUSAL_KIND_HELD_BY_OTHERS: Grade.HELD_BY_OTHERS,
    session.REFUSAL_KIND_NO_SUCH_BALANCE: Grade.NO_SUCH_BALANCE,
    session.REFUSAL_KIND_FAILED: Grade.UNREACHABLE,
}


def install(
    book: LeaseBook,
    request: Request,
    want: Wanted,
    acquired: session.Acquired,
    *,
    revision: int,
    received_at: float,
    now: float,
) -> list[Withdrawn]:
    """Puts what was granted into the book; what a cut has overtaken is answered, withdrawn. The book's lock is held."""
    is_overtaken = request.cut_at.get(want.ref, 0) > revision
    for lease in acquired.leases:
        book.install(want.ref, lease, sent_at=request.sent_at, received_at=received_at, revision=revision)
    if acquired.HasField("rate_share") and not is_overtaken:
        book.install_share(want.ref, acquired.rate_share, sent_at=request.sent_at, now=now)
    if not is_overtaken:
        return []
    return book.withdraw(want.ref, sum(s.amount for lease in acquired.leases for s in lease.slices))


def hints(reply: session.AcquireLeasesResponse) -> list[session.BalanceHint]:
    """How the balances stand after the transaction."""
    return [acquired.hint for acquired in reply.acquired if acquired.HasField("hint")]


def outcome(acquired: session.Acquired) -> Acquired:
    """What the callers of this want are told."""
    if not acquired.HasField("refusal"):
        return Acquired(Grade.GRANTED)
    refusal = acquired.refusal
    retry_after = None
    if refusal.HasField("retry_after"):
        retry_after = refusal.retry_after.seconds + refusal.retry_after.nanos / 1e9
    return Acquired(_GRADES.get(refusal.kind, Grade.EXHAUSTED), retry_after, refusal.message)


def remembered_seconds(ref: BalanceRef, refused: Acquired) -> float:
    """How long a refusal is answered from memory unless a hint ends it sooner."""
    if refused.retry_after_seconds is not None:
        return min(refused.retry_after_seconds, REMEMBERED_SECONDS)
    if ref.balance.startswith("rate:"):
        return RATE_REMEMBERED_SECONDS
    return 0.0 if refused.grade is Grade.HELD_BY_OTHERS else REMEMBERED_SECONDS


def verdict(answer: session.AcquireLeasesResponse | Unreachable | Refused) -> RemoteVerdict | RemoteFailure:
    """What the control plane decided about the only want of a request."""
    if isinstance(answer, (Unreachable, Refused)):
        return RemoteFailure(Grade.UNREACHABLE, str(answer))
    acquired = answer.acquired[0]
    if acquired.HasField("verdict"):
        said = acquired.verdict
        limit = said.limit if said.HasField("limit") else None
        return RemoteVerdict(said.allowed, said.used, limit, frees=said.frees)
    refused = outcome(acquired)
    grade = Grade.UNREACHABLE if refused.grade is Grade.GRANTED else refused.grade
    return RemoteFailure(grade, refused.message or "the control plane gave no verdict")
