"""What is counted beside decisions: unreported charges, waivers, refusals."""

from datetime import UTC, datetime

from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import decision_pb2 as answers
from sidecar.deciding.refusals import SAMPLES_PER_CUSTOMER, Refusals
from sidecar.deciding.unreported import LINES_MAX, Unreported
from sidecar.deciding.waivers import Waivers
from sidecar.engine.values import BalanceRef, Reason

REF = BalanceRef("acme", "", "wallet:usd")


def test_what_is_charged_shows_until_a_hint_counts_it() -> None:
    """Neither sooner, or the balance would jump back, nor longer, or it would be counted twice."""
    unreported = Unreported()
    unreported.charged(1, {REF: 10}.items())
    unreported.charged(2, {REF: 5}.items())
    unreported.counted({REF: 0}, 0)
    assert unreported.of(REF) == 15
    unreported.counted({REF: 1}, 0)
    assert unreported.of(REF) == 5
    unreported.counted({REF: 1}, 1)
    assert unreported.of(REF) == 5
    unreported.counted({}, 2)
    assert unreported.of(REF) == 0


def test_what_is_freed_shows_until_a_hint_counts_it() -> None:
    """A seat that was removed is not shown as taken by a hint that has not heard of it."""
    unreported = Unreported()
    unreported.charged(3, {REF: -1}.items())
    assert unreported.of(REF) == -1
    unreported.counted({REF: 3}, 0)
    assert unreported.of(REF) == 0


def test_a_thread_that_comes_after_the_hint_adds_nothing() -> None:
    """Its record was booked and told before it came by: it would be shown for ever."""
    unreported = Unreported()
    unreported.counted({}, 7)
    unreported.charged(7, {REF: 10}.items())
    assert unreported.of(REF) == 0


def test_what_an_earlier_process_left_shows_until_it_is_counted() -> None:
    """Beside what this one charges."""
    unreported = Unreported()
    unreported.inherit({REF: 30})
    unreported.charged(1, {REF: 5}.items())
    unreported.counted({REF: 1}, 1)
    assert unreported.of(REF) == 30
    unreported.charged(2, {REF: 5}.items())
    unreported.inherited_counted()
    assert unreported.of(REF) == 5
    unreported.inherited_counted()
    unreported.counted({}, 2)
    assert unreported.of(REF) == 0


def test_a_long_outage_takes_no_more_memory() -> None:
    """The sum is right whatever is told apart, and goes when all of it is counted."""
    unreported = Unreported()
    for seq in range(1, 3 * LINES_MAX + 1):
        unreported.charged(seq, {REF: 1}.items())
    assert unreported.of(REF) == 3 * LINES_MAX
    unreported.counted({}, LINES_MAX - 1)
    assert unreported.of(REF) == 2 * LINES_MAX + 1
    unreported.counted({}, 3 * LINES_MAX)
    assert unreported.of(REF) == 0


def test_waivers_stay_within_their_cap_per_outage() -> None:
    """N per customer, feature and outage; a new outage begins at nothing, whatever is given back of the last."""
    outage = [1]
    waivers = Waivers(lambda: outage[0])
    first = waivers.take("acme", "chat", 60, 100)
    assert first is not None
    assert not waivers.take("acme", "chat", 41, 100)
    assert waivers.take("acme", "search", 100, 100)
    second = waivers.take("acme", "chat", 20, 100)
    assert second is not None
    waivers.give_back(second)
    assert waivers.left("acme", "chat", 100) == 40
    outage[0] = 2
    assert waivers.take("acme", "chat", 100, 100)
    waivers.give_back(first)
    assert waivers.left("acme", "chat", 100) == 0


def test_waivers_count_holders_once() -> None:
    """A holder counts for what it holds; giving back makes room; what is only tried on counts nowhere."""
    waivers = Waivers(lambda: 1)
    assert waivers.hold("acme", "seats", "ann", 1, 2, adds=True)
    assert waivers.hold("acme", "seats", "ann", 1, 2, adds=True)
    assert waivers.hold("acme", "seats", "bob", 1, 2, adds=True)
    assert not waivers.hold("acme", "seats", "cleo", 1, 2, adds=True)
    assert waivers.trial().hold("acme", "seats", "bob", 0, 0, adds=False)
    assert not waivers.hold("acme", "seats", "cleo", 1, 2, adds=True)
    gone = waivers.hold("acme", "seats", "bob", 0, 0, adds=False)
    assert gone is not None
    assert waivers.hold("acme", "seats", "cleo", 1, 2, adds=True)
    waivers.give_back(gone)
    assert waivers.left("acme", "seats", 2) == 0


class Channel:
    """Takes what is flushed."""

    def __init__(self) -> None:
        self.counts: list[sync.RefusalCount] = []
        self.samples: list[sync.RefusalSample] = []

    def count_refusals(self, counts: list[bytes], samples: list[bytes]) -> None:
        """Decodes them."""
        self.counts += [sync.RefusalCount.FromString(count) for count in counts]
        self.samples += [sync.RefusalSample.FromString(sample) for sample in samples]


def test_refusals_are_counted_per_minute() -> None:
    """Counts per customer, feature, reason and minute; the last hundred explanations; each once."""
    now = [datetime(2026, 3, 1, 12, 0, 59, tzinfo=UTC)]
    refusals = Refusals(lambda: now[0])
    decision = answers.Decision(decision_id="d", message="no").SerializeToString()
    for _ in range(SAMPLES_PER_CUSTOMER + 5):
        refusals.note(customer_id="acme", feature="chat", reason=Reason.LIMIT_REACHED, decision=decision)
    now[0] = datetime(2026, 3, 1, 12, 1, 0, tzinfo=UTC)
    refusals.note(customer_id="acme", feature="chat", reason=Reason.LIMIT_REACHED, decision=decision)
    channel = Channel()
    refusals.flush(channel)
    assert sorted(count.count for count in channel.counts) == [1, SAMPLES_PER_CUSTOMER + 5]
    assert len(channel.samples) == SAMPLES_PER_CUSTOMER
    refusals.flush(channel)
    assert len(channel.counts) == 2
