"""What the view needs of the outside: the feed, a second tier, and who obeys recalls."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from purser.sync.v1 import feed_pb2 as feed
from sidecar.view.snapshot import StoredView


class FeedLost(Exception):
    """The feed can not be reached, or broke. Nothing is lost: it resumes by revision."""


class FeedCall(Protocol):
    """One open feed. Iterating blocks until a message comes and raises `FeedLost` when the stream ends for
    whatever reason.
    """

    def __iter__(self) -> Iterator[feed.FollowResponse]: ...

    def __next__(self) -> feed.FollowResponse: ...

    def cancel(self) -> None:
        """Ends it from another thread; the iteration then raises `FeedLost`. May be called twice."""


class Feed(Protocol):
    """Opens feeds. Satisfied in `upstream/`."""

    def follow(self, outgoing: Iterator[feed.FollowRequest]) -> FeedCall:
        """Opens the stream; `outgoing` is read by a thread of the transport until it ends. Does not block
        for long; may raise `FeedLost`.
        """


class Recalls(Protocol):
    """Obeys recalls: the keeper."""

    def recall(self, recall: feed.Recall, answer: Callable[[feed.Recalled], None]) -> None:
        """Has what the recall names given back, durably; `answer` is then called, from another thread, perhaps more
        than once, and not at all when nothing could be written. Does not block.
        """


@dataclass(frozen=True, slots=True)
class StoredState:
    """One state as a second tier keeps it."""

    generation: int
    revision: int
    as_of: datetime | None
    """When who stored it had it confirmed, by the control plane's clock. None: nobody knows."""
    state: feed.CustomerState | feed.SubjectState


class SecondTier(Protocol):
    """A cache of states that a fleet shares. It never raises and never blocks for long: any failure looks
    like nothing there.
    """

    def customer(self, customer_id: str) -> StoredState | None:
        """The state last stored for this customer, of any revision."""

    def subject(self, subject_id: str) -> StoredState | None:
        """The same for a subject."""

    def catalogs(self) -> StoredView | None:
        """All catalogs, with the newest revision that anybody has stored and when it was confirmed; no customers and
        subjects.
        """

    def store(self, stored: StoredView) -> None:
        """Stores these states, each unless what is there is newer."""
