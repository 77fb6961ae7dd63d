"""The book, rule by rule."""

from typing import NamedTuple

import pytest

from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.leases.book import LeaseBook
from sidecar.leases.terms import NotCovered

WALLET = BalanceRef("acme", "", "wallet:usd")
ALLOWANCE = BalanceRef("acme", "", "allowance:chat")
RATE = BalanceRef("acme", "", "rate:chat/requests/PT1M")
GRANTED_AT = 1_000_000


class Draw(NamedTuple):
    """As the engine's."""

    ref: BalanceRef
    feature: str
    within: int
    beyond: int = 0


def lease(
    lease_id: str,
    within: int,
    *,
    beyond: int = 0,
    ttl: int = 60,
    scope: tuple[str, ...] = (),
    never_after: int | None = None,
    begins_in: int | None = None,
) -> session.Lease:
    """A lease granted at GRANTED_AT; other instants are seconds from there."""
    made = session.Lease(lease_id=lease_id, slices=[session.Slice(grant_id="g", amount=within)], scope=scope)
    if beyond:
        made.slices.append(session.Slice(grant_id="b", amount=beyond, beyond_limit=True))
    made.ttl.FromSeconds(ttl)
    made.ends_at.FromSeconds(GRANTED_AT + ttl)
    if never_after is not None:
        made.never_after.FromSeconds(GRANTED_AT + never_after)
    if begins_in is not None:
        made.begins_at.FromSeconds(GRANTED_AT + begins_in)
    return made


def install(
    book: LeaseBook, ref: BalanceRef, made: session.Lease, sent_at: float = 100.0, revision: int = 1
) -> None:
    """Half a second on the way."""
    book.install(ref, made, sent_at=sent_at, received_at=sent_at + 0.5, revision=revision)


def fund(
    book: LeaseBook, ref: BalanceRef, now: float, feature: str = "chat", until: float | None = None
) -> int:
    """What can be spent in all."""
    found = book.funds([ref], feature, now, until).get(ref)
    return 0 if found is None else found.within + found.beyond


def test_a_draw_takes_from_all_balances_or_none() -> None:
    """When the second balance is short, the first one is as it was."""
    book = LeaseBook()
    install(book, WALLET, lease("l1", 10))
    install(book, ALLOWANCE, lease("l2", 3))
    with pytest.raises(NotCovered):
        book.take([Draw(WALLET, "chat", 5), Draw(ALLOWANCE, "chat", 4)], 101.0)
    assert fund(book, WALLET, 101.0) == 10
    assert fund(book, ALLOWANCE, 101.0) == 3


def test_a_lease_ends_one_percent_early_from_its_first_sending() -> None:
    """60 seconds from the sending are 59.4 of ours, whenever the answer came."""
    book = LeaseBook()
    book.install(WALLET, lease("l1", 10), sent_at=100.0, received_at=130.0, revision=1)
    assert fund(book, WALLET, 159.3) == 10
    assert fund(book, WALLET, 159.4) == 0
    with pytest.raises(NotCovered):
        book.take([Draw(WALLET, "chat", 1)], 159.4)


def test_while_cut_off_slices_are_finished_but_never_past_their_grants() -> None:
    """Beyond the lease's end until the staleness allowed, or the end of grant, period or subscription, less drift."""
    book = LeaseBook()
    install(book, WALLET, lease("l1", 10, never_after=300))
    assert fund(book, WALLET, 200.0, until=3700.0) == 10
    assert fund(book, WALLET, 200.0) == 0
    assert fund(book, WALLET, 200.0, until=199.0) == 0
    assert fund(book, WALLET, 396.9, until=3700.0) == 10
    assert fund(book, WALLET, 397.0, until=3700.0) == 0
    assert book.expire(200.0, is_cut_off=True) == []
    assert [w.amount for w in book.expire(398.0, is_cut_off=True)] == [10]


def test_a_lease_of_the_next_period_waits_for_its_beginning() -> None:
    """It gives nothing before, and all of it after."""
    book = LeaseBook()
    install(book, ALLOWANCE, lease("l1", 10, ttl=120, begins_in=30))
    assert fund(book, ALLOWANCE, 130.4) == 0
    assert fund(book, ALLOWANCE, 130.6) == 10


def test_scopes_keep_other_features_out() -> None:
    """A scoped lease serves its features only."""
    book = LeaseBook()
    install(book, WALLET, lease("l1", 10, scope=("image",)))
    install(book, WALLET, lease("l2", 4))
    assert fund(book, WALLET, 101.0, feature="chat") == 4
    assert fund(book, WALLET, 101.0, feature="image") == 14
    with pytest.raises(NotCovered):
        book.take([Draw(WALLET, "chat", 5)], 101.0)


def test_what_lies_beyond_the_limit_burns_last_and_returns_first() -> None:
    """Within goes first; a return takes from the cap's part before it takes from the limit's."""
    book = LeaseBook()
    install(book, ALLOWANCE, lease("l1", 10, beyond=5))
    funds = book.funds([ALLOWANCE], "chat", 101.0)[ALLOWANCE]
    assert (funds.within, funds.beyond) == (10, 5)
    taken = book.take([Draw(ALLOWANCE, "chat", 10, 2)], 101.0)
    assert [(t.amount, t.beyond) for t in taken] == [(12, 2)]
    book.give_back(taken, 101.0)
    book.withdraw(ALLOWANCE, 6)
    funds = book.funds([ALLOWANCE], "chat", 101.0)[ALLOWANCE]
    assert (funds.within, funds.beyond) == (9, 0)


def test_a_living_holder_returns_the_rest_at_the_end_and_keeps_its_holds() -> None:
    """What is free goes back; what is held stays, and goes back later if it is not charged."""
    book = LeaseBook()
    install(book, WALLET, lease("l1", 10))
    taken = book.take([Draw(WALLET, "chat", 4)], 101.0)
    book.hold(taken)
    assert book.held(WALLET) == 4
    assert [(w.lease_id, w.amount) for w in book.expire(160.0, is_cut_off=False)] == [("l1", 6)]
    assert book.expire(170.0, is_cut_off=False) == []
    book.charge_held("l1", 1)
    book.release_held("l1", 3)
    assert book.held(WALLET) == 0
    assert fund(book, WALLET, 170.0) == 0
    assert [w.amount for w in book.expire(170.0, is_cut_off=False)] == [3]


def test_a_cut_takes_only_what_is_older_and_free() -> None:
    """Leases of the cut's revision, or after it, stay."""
    book = LeaseBook()
    install(book, WALLET, lease("l1", 10), revision=5)
    install(book, WALLET, lease("l2", 7), revision=6)
    book.take([Draw(WALLET, "chat", 4)], 101.0)
    assert [(w.lease_id, w.amount) for w in book.cut(WALLET, 6)] == [("l1", 6)]
    assert fund(book, WALLET, 101.0) == 7


def test_idle_is_what_nobody_holds_and_has_not_just_come() -> None:
    """A lease that has just come is left to those who waited for it; it is not among those that were looked through."""
    book = LeaseBook()
    install(book, WALLET, lease("l1", 10), revision=5)
    book.hold(book.take([Draw(WALLET, "chat", 4)], 101.0))
    book.install(WALLET, lease("l2", 7), sent_at=100.9, received_at=101.0, revision=5)
    assert [(w.lease_id, w.amount) for w in book.withdraw_idle(WALLET, 101.01)] == [("l1", 6)]
    assert book.settled_in(WALLET, 101.01) == ("l1",)
    assert book.is_fresh(WALLET, 101.01)
    assert [(w.lease_id, w.amount) for w in book.withdraw_idle(WALLET, 101.1)] == [("l2", 7)]
    assert book.settled_in(WALLET, 101.1) == ("l1", "l2")
    assert not book.is_fresh(WALLET, 101.1)


def test_earlier_incarnations_holds_are_shown_and_never_spent() -> None:
    """A restored hold counts as reserved; nothing of its lease can be taken."""
    book = LeaseBook()
    book.restore_hold(WALLET, "old", 30)
    assert book.held(WALLET) == 30
    assert fund(book, WALLET, 101.0) == 0
    book.charge_held("old", 10)
    book.release_held("old", 20)
    assert book.held(WALLET) == 0
    assert book.expire(10_000.0, is_cut_off=False) == []


def test_a_share_never_pays_more_than_its_burst_and_its_refill() -> None:
    """600 per minute with a burst of 10: in 30 seconds at most 310, and nothing after the share's end."""
    book = LeaseBook()
    share = session.RateShare(lease_id="s1", tokens=10, micro_per_second=10_000_000, burst=10)
    share.ttl.FromSeconds(30)
    book.install_share(RATE, share, sent_at=100.0, now=100.0)
    passed, now = 0, 100.0
    while now < 140.0:
        available = fund(book, RATE, now)
        if available:
            taken = book.take([Draw(RATE, "chat", available)], now)
            assert all(t.is_rate for t in taken)
            passed += available
        now += 0.01
    assert 290 <= passed <= 310
    with pytest.raises(NotCovered):
        book.take([Draw(RATE, "chat", 1)], 140.0)


def test_tokens_of_a_refused_call_go_back() -> None:
    """A refused call leaves no trace in the bucket, which never rises above its burst."""
    book = LeaseBook()
    share = session.RateShare(lease_id="s1", tokens=5, micro_per_second=0, burst=5)
    share.ttl.FromSeconds(30)
    book.install_share(RATE, share, sent_at=100.0, now=100.0)
    taken = book.take([Draw(RATE, "chat", 3)], 100.0)
    book.give_back(taken, 100.0)
    book.give_back(taken, 100.0)
    assert fund(book, RATE, 100.0) == 5


def test_after_clear_nothing_can_be_spent_and_holds_are_still_shown() -> None:
    """What an earlier incarnation leased is not ours, but its reservations go on."""
    book = LeaseBook()
    install(book, WALLET, lease("l1", 10))
    book.hold(book.take([Draw(WALLET, "chat", 4)], 101.0))
    book.clear()
    assert fund(book, WALLET, 101.0) == 0
    assert book.held(WALLET) == 4
    assert book.expire(1e6, is_cut_off=False) == []


def test_a_share_that_has_ended_is_no_share() -> None:
    """An empty share says that nothing is left; an ended one says nothing, and is not among the funds."""
    book = LeaseBook()
    share = session.RateShare(lease_id="s", tokens=0, micro_per_second=0, burst=5)
    share.ttl.FromSeconds(20)
    book.install_share(RATE, share, sent_at=100.0, now=100.0)
    with book.lock:
        assert book.funds([RATE], "chat", 101.0)[RATE].within == 0
        assert RATE not in book.funds([RATE], "chat", 121.0)
