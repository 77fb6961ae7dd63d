"""The bounded room, and waiting for what is not there yet."""

import contextlib
import json
import threading
import time

from purser.sync.v1 import feed_pb2 as feed
from sidecar.view.cold import Cold
from sidecar.view.memory import View
from sidecar.view.port import SecondTier
from tests.unit.sidecar.view.states import DOCUMENT, catalog, customer, view


def test_a_pinned_customer_is_never_evicted() -> None:
    """One with an open reservation stays, whoever else has to go."""
    held = view(bound=2, pinned=frozenset({"a"}))
    for revision, name in enumerate("abcd", start=1):
        held.apply(revision=revision, catalogs=[catalog()], customers=[customer(name)], advance=True)
    assert held.customer("a") is not None
    assert held.counts()[0] == 2


def test_who_was_used_gets_a_second_chance() -> None:
    """Eviction passes over an entry that was read since it was looked at last."""
    held = view(bound=2)
    for revision, name in enumerate(("a", "b", "c"), start=1):
        held.apply(revision=revision, catalogs=[catalog()], customers=[customer(name)], advance=True)
    kept = next(name for name in ("b", "c") if held.customer(name) is not None)
    held.apply(revision=9, customers=[customer("d")], advance=True)
    assert held.customer("d") is not None
    assert kept


def test_who_does_not_exist_is_known_not_to() -> None:
    """A negative state is held like any other."""
    held = view()
    held.apply(revision=1, customers=[feed.CustomerState(customer_id="ghost")], advance=True)
    entry = held.customer("ghost")
    assert entry is not None
    assert not entry.exists


class Asked:
    """A feed that answers each subscription once, when told to."""

    def __init__(self, held: View) -> None:
        self.held = held
        self.customers: list[str] = []

    def subscribe(self, *, customer_id: str = "", subject_id: str = "") -> None:
        assert not subject_id
        self.customers.append(customer_id)


class SlowTier:
    """A second tier that knows nobody, and says so when it is told to."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.goes_on = threading.Event()

    def customer(self, _customer_id: str) -> None:
        self.entered.set()
        self.goes_on.wait()

    subject = customer

    def catalogs(self) -> None:
        """There are none."""

    def store(self, *_: object) -> None:
        raise AssertionError("nothing is stored")


def cold(held: View, asked: Asked, second_tier: SecondTier | None = None) -> Cold:
    """Looks up in real time: it waits for threads."""
    return Cold(
        view=held,
        subscriber=asked,
        second_tier=second_tier,
        monotonic=time.monotonic,
        blocking=contextlib.nullcontext,
    )


def test_one_subscription_for_all_who_ask() -> None:
    """Twenty callers of a cold customer make one subscription, and all get its answer."""
    held = view()
    held.pulse.connected(True)
    asked = Asked(held)
    looking = cold(held, asked)
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(looking.customer("acme", time.monotonic() + 20)))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    while not asked.customers:
        time.sleep(0.001)
    held.apply(revision=1, catalogs=[catalog()], customers=[customer()], advance=True)
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert None not in found
    assert asked.customers == ["acme"]


def test_who_asks_after_the_feed_came_subscribes_though_others_wait() -> None:
    """One caller finds the feed away and is in the second tier when it comes; another one asks meanwhile, so there is
    always somebody who waits. The customer is subscribed all the same, once for each time that the feed came.
    """
    held = view()
    asked = Asked(held)
    tier = SlowTier()
    looking = cold(held, asked, tier)
    first = threading.Thread(target=lambda: looking.customer("acme", time.monotonic() + 20))
    first.start()
    assert tier.entered.wait(10)
    for times in (1, 2):
        held.pulse.connected(True)
        overlapping = [
            threading.Thread(target=lambda: looking.customer("acme", time.monotonic() + 20)) for _ in range(3)
        ]
        for thread in overlapping:
            thread.start()
        deadline = time.monotonic() + 10
        while len(asked.customers) < times and time.monotonic() < deadline:
            time.sleep(0.001)
        assert asked.customers == ["acme"] * times
        held.pulse.connected(False)
        held.wake()
        for thread in overlapping:
            thread.join()
    tier.goes_on.set()
    first.join()


def test_a_feed_that_is_being_opened_is_waited_for() -> None:
    """Who asks before the first attempt has come to anything is answered once it has: by the feed, or that there is
    none.
    """
    for comes in (True, False):
        held = view()
        held.pulse.connecting()
        asked = Asked(held)
        looking = cold(held, asked)
        found: list[object] = []
        thread = threading.Thread(
            target=lambda at=looking, to=found: to.append(at.customer("acme", time.monotonic() + 20))
        )
        thread.start()
        assert not asked.customers
        held.pulse.connected(comes)
        held.wake()
        if comes:
            while not asked.customers:
                time.sleep(0.001)
            held.apply(revision=1, catalogs=[catalog()], customers=[customer()], advance=True)
        thread.join(10)
        assert [entry is not None for entry in found] == [comes]


def test_nobody_waits_while_the_feed_is_away() -> None:
    """Without a feed the answer is at once that it is not known."""
    held = view()
    started = time.monotonic()
    assert cold(held, Asked(held)).customer("acme", started + 60) is None
    assert time.monotonic() - started < 5


def test_after_a_reset_a_catalog_is_what_it_is_told_to_be() -> None:
    """A control plane that was restored may publish another text under a number that was known, and an older one may
    be in force: what comes counts.
    """
    held = view()
    held.apply(revision=9, catalogs=[catalog(1), catalog(7)], customers=[customer("acme")], advance=True)
    held.start_over(2)
    assert held.current_catalog is not None
    assert held.current_catalog[0] == 7
    told = catalog(1)
    told.document = json.dumps({**DOCUMENT, "plans": {}}).encode()
    held.apply(revision=3, catalogs=[told], advance=True)
    assert held.current_catalog is not None
    revision, current = held.current_catalog
    assert (revision, dict(current.plans)) == (1, {})
