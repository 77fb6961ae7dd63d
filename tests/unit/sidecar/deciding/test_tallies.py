"""What is counted beside decisions: unreported charges, waivers, refusals."""

from datetime import UTC, datetime

from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import decision_pb2 as answers
from sidecar.deciding.refusals import SAMPLES_PER_CUSTOMER, Refusals
from sidecar.deciding.unreported import HINT_SECONDS, Unreported
from sidecar.deciding.waivers import Waivers
from sidecar.engine.values import BalanceRef, Reason
from sidecar.runtime.clock import ManualClock

REF = BalanceRef("acme", "", "wallet:usd")


def test_what_is_charged_shows_until_a_hint_counts_it() -> None:
    """Acknowledged is not enough: between that and the hint the balance must not jump back."""
    clock = ManualClock()
    unreported = Unreported(clock.monotonic)
    unreported.charged(1, {REF: 10}.items())
    unreported.charged(2, {REF: 5}.items())
    unreported.hinted([REF])
    assert unreported.of(REF) == 15
    unreported.acknowledged(1)
    assert unreported.of(REF) == 15
    unreported.hinted([REF])
    assert unreported.of(REF) == 5


def test_an_answer_counts_what_was_acknowledged_before_it_was_asked() -> None:
    """The reply to an acquire may have read the books before what was acknowledged meanwhile was in them."""
    clock = ManualClock()
    unreported = Unreported(clock.monotonic)
    unreported.charged(1, {REF: 10}.items())
    unreported.charged(2, {REF: 5}.items())
    unreported.acknowledged(1)
    clock.advance(0.5)
    asked_at = clock.monotonic()
    clock.advance(0.5)
    unreported.acknowledged(2)
    unreported.hinted([REF], as_of=asked_at)
    assert unreported.of(REF) == 5


def test_what_was_acknowledged_does_not_show_for_ever() -> None:
    """A balance that gets no hint is shown by the books' last word after a while."""
    clock = ManualClock()
    unreported = Unreported(clock.monotonic)
    unreported.charged(1, {REF: 10}.items())
    unreported.acknowledged(1)
    clock.advance(HINT_SECONDS)
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
