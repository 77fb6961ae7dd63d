"""The thread that keeps the feed open: connects, hands messages to the follower, sends what it says, and
starts again.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue

import structlog

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.view.follower import Follower, Step
from sidecar.view.memory import View
from sidecar.view.port import Feed, FeedCall, FeedLost, Recalls

_log = structlog.stdlib.get_logger(__name__)


class Outgoing:
    """What is sent on one stream: a queue that ends. Thread-safe."""

    def __init__(self) -> None:
        """Open and empty."""
        self._queue: SimpleQueue[feed.FollowRequest | None] = SimpleQueue()

    def send(self, *messages: feed.FollowRequest) -> None:
        """Queues them, in order."""
        for message in messages:
            self._queue.put(message)

    def end(self) -> None:
        """Nothing more comes."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[feed.FollowRequest]:
        while (message := self._queue.get()) is not None:
            yield message


class Following:
    """Follows for as long as it runs. `subscribe` may be called by any thread."""

    def __init__(
        self,
        *,
        view: View,
        feed_port: Feed,
        recalls: Recalls,
        holder: Callable[[], session.Holder],
        label: str,
        monotonic: Callable[[], float],
        delays: Callable[[], Iterator[float]],
        wanted: Callable[[], Iterable[str]],
    ) -> None:
        """`delays()`: seconds to wait before each further attempt, growing, with full jitter. `wanted()`: customers
        to follow from the first, whether they are held or not.
        """
        self._view = view
        self._feed = feed_port
        self._recalls = recalls
        self._holder = holder
        self._label = label
        self._monotonic = monotonic
        self._delays = delays
        self._follower = Follower(view, wanted)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._outgoing: Outgoing | None = None
        self._call: FeedCall | None = None
        self._wanted_customers: set[str] = set()
        self._wanted_subjects: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="purser-feed", daemon=True)

    def start(self) -> None:
        """Begins to follow."""
        self._view.pulse.connecting()
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Ends the stream and the thread; waits at most so long."""
        self._stopping.set()
        with self._lock:
            if self._call is not None:
                self._call.cancel()
        self._thread.join(timeout_seconds)

    def subscribe(self, *, customer_id: str = "", subject_id: str = "") -> None:
        """Asks the feed for a customer or a subject. While it is away, nothing is sent: who asks again later
        is heard then.
        """
        customers = [customer_id] if customer_id else []
        subjects = [subject_id] if subject_id else []
        with self._lock:
            if self._outgoing is not None:
                self._outgoing.send(*self._follower.subscribe(customers, subjects))

    def _run(self) -> None:
        delays = self._delays()
        while not self._stopping.is_set():
            came = False
            try:
                came = self._follow_once()
            except FeedLost as error:
                _log.info("the feed is away", cause=str(error))
            except Exception:  # noqa: BLE001
                # Whatever went wrong in here must not end the following for good: the view would age without a word.
                _log.exception("following failed")
            finally:
                self._view.pulse.connected(False)
                self._view.wake()
            if came:
                delays = self._delays()
            self._stopping.wait(next(delays))

    def _follow_once(self) -> bool:
        """One stream, until it breaks. True: something came, so that the next attempt need not wait for long."""
        outgoing = Outgoing()
        came = False
        try:
            with self._lock:
                if self._stopping.is_set():
                    return came
                outgoing.send(*self._follower.start(self._holder(), self._label))
                call = self._feed.follow(iter(outgoing))
                self._call, self._outgoing = call, outgoing
            for message in call:
                if not came:
                    came = True
                    self._view.pulse.connected(True)
                    self._view.wake()
                    _log.info("the feed is connected", revision=self._view.revision)
                with self._lock:
                    # Who asks for a customer asks before this message, or after what it has said: a customer that made
                    # room is let go, and must not be followed before that.
                    step = self._follower.receive(message, received_at=self._monotonic())
                    outgoing.send(*step.send)
                if not self._take(step, outgoing):
                    break
        except FeedLost as error:
            _log.info("the feed broke", cause=str(error))
        finally:
            with self._lock:
                if self._call is not None:
                    self._call.cancel()
                self._call = self._outgoing = None
            outgoing.end()
        return came

    def _take(self, step: Step, outgoing: Outgoing) -> bool:
        if step.problem:
            _log.warning("a message on the feed was not taken over", problem=step.problem)
        if step.obey is not None:
            self._recalls.recall(step.obey, lambda answer: outgoing.send(feed.FollowRequest(recalled=answer)))
        return not step.resume
