"""The thread that follows, beside those who ask for customers meanwhile."""

import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.view.following import Following
from sidecar.view.memory import View
from tests.unit.sidecar.view.states import customer, snapshot, view

_PATIENCE_SECONDS = 5.0


class Line:
    """A feed whose messages the test says, and which keeps what it heard."""

    def __init__(self) -> None:
        self._says: SimpleQueue[feed.FollowResponse] = SimpleQueue()
        self.heard: SimpleQueue[feed.FollowRequest] = SimpleQueue()

    def follow(self, outgoing: Iterator[feed.FollowRequest]) -> "Line":
        threading.Thread(target=self._hear, args=(outgoing,), daemon=True).start()
        return self

    def _hear(self, outgoing: Iterator[feed.FollowRequest]) -> None:
        for said in outgoing:
            self.heard.put(said)

    def say(self, message: feed.FollowResponse) -> None:
        self._says.put(message)

    def __iter__(self) -> "Line":
        return self

    def __next__(self) -> feed.FollowResponse:
        return self._says.get()

    def cancel(self) -> None:
        """It goes on: nobody else listens."""


class NoRecalls:
    """Nothing is recalled here."""

    def recall(self, *_: object) -> None:
        raise AssertionError("nothing was said")


def _following(held: View, line: Line) -> Following:
    found = Following(
        view=held,
        feed_port=line,
        recalls=NoRecalls(),
        holder=session.Holder,
        label="test",
        monotonic=time.monotonic,
        delays=lambda: iter([_PATIENCE_SECONDS]),
        wanted=tuple,
    )
    found.start()
    return found


def _known(held: View, customer_id: str) -> None:
    assert held.wait_for(lambda: held.customer(customer_id) is not None, _PATIENCE_SECONDS), customer_id


def test_who_asks_again_while_a_customer_makes_room_follows_it() -> None:
    """A customer is asked for in the instant in which another takes its place: what is heard last is that it is
    followed, and its state is taken over. Otherwise it would stay as it is for ever, and be called live.
    """
    held, line = view(bound=1, in_use_max=1), Line()
    following = _following(held, line)
    following.subscribe(customer_id="acme")
    line.say(snapshot(5, customer("acme")))
    _known(held, "acme")

    def ask(changed: frozenset[str]) -> None:
        if "globex" in changed:
            asking = threading.Thread(target=lambda: following.subscribe(customer_id="acme"))
            asking.start()
            asking.join(0.1)  # whether it has to wait is up to who follows

    held.on_customers_changed(ask)
    following.subscribe(customer_id="globex")
    line.say(snapshot(6, customer("globex")))
    _known(held, "globex")
    heard: list[str] = []
    while heard.count("follow") < 2 or "let go" not in heard:
        said = line.heard.get(timeout=_PATIENCE_SECONDS)
        heard += ["follow"] if "acme" in said.subscribe.customer_ids else []
        heard += ["let go"] if "acme" in said.unsubscribe.customer_ids else []
    assert heard[-1] == "follow"
    line.say(snapshot(7, customer("acme")))
    _known(held, "acme")
