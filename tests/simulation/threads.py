"""Threads and time that are simulated: one real thread, a clock that only waits move, and every switch decided here.

A thread of the code under test is a greenlet on an asyncio loop whose clock is virtual. `as_threads` puts locks,
events, conditions, queues and threads of this kind into the sidecar's modules, so that the sidecar runs as it is.
Switches happen where a thread waits, and, by the dice, where it takes a lock: that is where another thread could come
between.
"""

import asyncio
import selectors
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty
from random import Random
from typing import Any, Final, Generic, TypeVar, TypeVarTuple, Unpack, cast

from greenlet import GreenletExit, getcurrent, greenlet

Item = TypeVar("Item")
Args = TypeVarTuple("Args")

YIELDS: Final = 0.03
"""How often a thread that takes a lock lets others go first."""


class Stalled(Exception):
    """Nobody will ever do anything again: a deadlock."""


class _Skipping(selectors.SelectSelector):
    """Waits for nothing: time jumps to where something is due."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stalled
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual seconds."""

    def __init__(self) -> None:
        self._virtual = _Skipping()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Args]], Item], *args: *Args
    ) -> asyncio.Future[Item]:
        """At once: there is no other thread."""
        done: asyncio.Future[Item] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 it is for who awaits
            done.set_exception(error)
        return done


@dataclass(eq=False)
class Process:
    """What dies at once: `kill -9` means that none of its threads ever runs again."""

    name: str
    rate: float = 1.0
    """How fast its clocks run: seconds of its own per true second."""
    is_dead: bool = False
    is_paused: bool = False
    on_death: Callable[[], None] = lambda: None
    """What to call when it has died by itself."""
    threads: list["Thread"] = field(default_factory=list)
    postponed: list["Thread"] = field(default_factory=list)


class Thread(greenlet):
    """One simulated thread."""

    def __init__(self, process: Process, work: Callable[[], object]) -> None:
        super().__init__(work)
        self.process = process
        self.locals: dict[int, dict[str, object]] = {}
        process.threads.append(self)

    @property
    def is_under_way(self) -> bool:
        """Has it begun, and not ended?"""
        return bool(greenlet.__bool__(self))


@dataclass(eq=False)
class Token:
    """One wait of one thread."""

    thread: Thread
    is_over: bool = False
    is_woken: bool = False
    timer: asyncio.TimerHandle | None = None


class Hub:
    """All threads of one simulation, and who runs next."""

    def __init__(self, loop: VirtualLoop, random: Random) -> None:
        self.loop = loop
        self.random = random
        self.is_closed = False
        self.failures: list[str] = []
        """What ended a thread that nobody was to end."""
        self._main = getcurrent()

    def time(self) -> float:
        """True seconds."""
        return self.loop.time()

    @property
    def current(self) -> Thread | None:
        """The thread that runs; None: none of ours, the loop does."""
        running = getcurrent()
        return running if isinstance(running, Thread) else None

    def spawn(self, process: Process, work: Callable[[], object]) -> Thread:
        """Starts a thread of a process."""

        def run() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 a thread that dies is a finding
                self.failures.append(f"{process.name}: {error!r}")

        thread = Thread(process, run)
        thread.parent = self._main
        self.loop.call_soon(self._resume, thread)
        return thread

    def token(self) -> Token:
        """For a wait of the thread that runs."""
        thread = self.current
        assert thread is not None, "the loop itself must not wait"
        return Token(thread)

    def park(self, token: Token, seconds: float | None = None) -> bool:
        """Waits until somebody wakes the token, at most so many of the process's own seconds. False: nobody did."""
        if self.is_closed:
            raise GreenletExit
        if seconds is not None:
            true_seconds = max(0.0, seconds) / token.thread.process.rate
            token.timer = self.loop.call_later(true_seconds, self._timed_out, token)
        self._main.switch()
        return token.is_woken

    def wake(self, token: Token) -> bool:
        """Ends a wait. False: it was over."""
        if token.is_over:
            return False
        token.is_over = token.is_woken = True
        if token.timer is not None:
            token.timer.cancel()
        self.loop.call_soon(self._resume, token.thread)
        return True

    def sleep(self, seconds: float) -> None:
        """So many of the process's own seconds."""
        self.park(self.token(), seconds)

    def maybe_yield(self) -> None:
        """Lets others go first, now and then."""
        if self.current is not None and not self.is_closed and self.random.random() < YIELDS:
            token = self.token()
            self.wake(token)
            self.park(token)

    def never_return(self) -> None:
        """The present thread's process has just died: nothing after this happens."""
        thread = self.current
        assert thread is not None
        thread.process.is_dead = True
        self.loop.call_soon(thread.process.on_death)
        self._main.switch()
        raise GreenletExit

    def close(self, processes: list[Process]) -> None:
        """Ends all threads, wherever they stand, so that nothing of them is left."""
        self.is_closed = True
        for process in processes:
            for thread in process.threads:
                if thread.is_under_way:
                    with suppress(BaseException):  # it is over: what its `finally` meets is no finding
                        thread.throw(GreenletExit)

    def _timed_out(self, token: Token) -> None:
        if not token.is_over:
            token.is_over = True
            self._resume(token.thread)

    def _resume(self, thread: Thread) -> None:
        process = thread.process
        if process.is_dead or thread.dead:
            return
        if process.is_paused:
            process.postponed.append(thread)
            return
        thread.switch()

    def go_on(self, process: Process) -> None:
        """Ends a pause."""
        process.is_paused = False
        threads, process.postponed = process.postponed, []
        for thread in threads:
            self.loop.call_soon(self._resume, thread)


class Lock:
    """`threading.Lock`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._is_held = False
        self._waiting: deque[Token] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """See `threading`."""
        self._hub.maybe_yield()
        while self._is_held:
            if not blocking:
                return False
            token = self._hub.token()
            self._waiting.append(token)
            if not self._hub.park(token, None if timeout < 0 else timeout):
                return False
        self._is_held = True
        return True

    def release(self) -> None:
        """See `threading`."""
        self._is_held = False
        while self._waiting and not self._hub.wake(self._waiting.popleft()):
            pass

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Condition:
    """`threading.Condition`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._lock = Lock(hub)
        self._waiting: deque[Token] = deque()

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """See `threading`."""
        token = self._hub.token()
        self._waiting.append(token)
        self._lock.release()
        woken = self._hub.park(token, timeout)
        self._lock.acquire()
        return woken

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """See `threading`."""
        thread = self._hub.current
        ends_at = (
            None if timeout is None or thread is None else self._hub.time() + timeout / thread.process.rate
        )
        while not (found := predicate()):
            left = None if ends_at is None else ends_at - self._hub.time()
            if left is not None and left <= 0:
                return found
            self.wait(left)
        return found

    def notify(self, n: int = 1) -> None:
        """See `threading`."""
        while n and self._waiting:
            n -= self._hub.wake(self._waiting.popleft())

    def notify_all(self) -> None:
        """See `threading`."""
        self.notify(len(self._waiting))


class Event:
    """`threading.Event`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._is_set = False
        self._waiting: list[Token] = []

    def is_set(self) -> bool:
        """See `threading`."""
        return self._is_set

    def set(self) -> None:
        """See `threading`."""
        self._is_set = True
        waiting, self._waiting = self._waiting, []
        for token in waiting:
            self._hub.wake(token)

    def clear(self) -> None:
        """See `threading`."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """See `threading`."""
        if not self._is_set:
            token = self._hub.token()
            self._waiting.append(token)
            self._hub.park(token, timeout)
        return self._is_set


class SimpleQueue(Generic[Item]):
    """`queue.SimpleQueue`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._items: deque[Item] = deque()
        self._waiting: deque[Token] = deque()

    def put(self, item: Item) -> None:
        """See `queue`."""
        self._items.append(item)
        while self._waiting and not self._hub.wake(self._waiting.popleft()):
            pass

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        """See `queue`."""
        while not self._items:
            if not block:
                raise Empty
            token = self._hub.token()
            self._waiting.append(token)
            if not self._hub.park(token, timeout) and not self._items:
                raise Empty
        return self._items.popleft()

    def get_nowait(self) -> Item:
        """See `queue`."""
        return self.get(block=False)

    def empty(self) -> bool:
        """See `queue`."""
        return not self._items


class PlainThread:
    """`threading.Thread`: of the process whose thread makes it, or of the one that is being started."""

    def __init__(
        self, hub: Hub, process: Process, target: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self._hub = hub
        self._process = process
        self._target = target
        self._args = args
        self._is_over = Event(hub)
        self._is_started = False

    def start(self) -> None:
        """See `threading`."""
        self._is_started = True
        self._hub.spawn(self._process, self._run)

    def _run(self) -> None:
        try:
            self._target(*self._args)
        finally:
            self._is_over.set()

    def is_alive(self) -> bool:
        """See `threading`."""
        return self._is_started and not self._is_over.is_set()

    def join(self, timeout: float | None = None) -> None:
        """See `threading`."""
        self._is_over.wait(timeout)


class Local:
    """`threading.local`."""

    def __init__(self, hub: Hub) -> None:
        object.__setattr__(self, "_hub", hub)

    def _values(self) -> dict[str, object]:
        thread = cast("Hub", object.__getattribute__(self, "_hub")).current
        return {} if thread is None else thread.locals.setdefault(id(self), {})

    def __getattr__(self, name: str) -> object:
        try:
            return self._values()[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: object) -> None:
        self._values()[name] = value


@contextmanager
def as_threads(hub: Hub) -> Iterator[None]:
    """Inside the block the sidecar's modules find these instead of the standard library's."""

    def thread(
        *, target: Callable[..., object], name: str = "", daemon: bool = False, args: tuple[Any, ...] = ()
    ) -> PlainThread:
        running = hub.current
        assert running is not None, f"{name}: only a thread starts a thread"
        return PlainThread(hub, running.process, target, args)

    def allocate_lock() -> Lock:
        return Lock(hub)

    def simple_queue() -> SimpleQueue[object]:
        return SimpleQueue(hub)

    threads = types.SimpleNamespace(
        Lock=allocate_lock,
        Condition=lambda: Condition(hub),
        Event=lambda: Event(hub),
        Thread=thread,
        local=lambda: Local(hub),
    )
    queues = types.SimpleNamespace(SimpleQueue=simple_queue, Empty=Empty)
    times = types.SimpleNamespace(sleep=hub.sleep)
    stand_ins: dict[str, tuple[object, object]] = {
        "threading": (threading, threads),
        "queue": (sys.modules["queue"], queues),
        "time": (sys.modules["time"], times),
        "SimpleQueue": (sys.modules["queue"].SimpleQueue, queues.SimpleQueue),
        "allocate_lock": (sys.modules["_thread"].allocate_lock, allocate_lock),
        "_here": (None, Local(hub)),
    }
    replaced: list[tuple[types.ModuleType, str, object]] = []
    for name, module in sorted(sys.modules.items()):
        if name.startswith("sidecar.") and not (module.__file__ or "").endswith(".py"):
            raise RuntimeError(f"{name} is compiled, and keeps its own threads: simulate the sources")
        if not name.startswith("sidecar.") or name in {"sidecar.runtime.clock", "sidecar.http.probes"}:
            continue
        for attribute, (real, simulated) in stand_ins.items():
            found = vars(module).get(attribute)
            if found is not None and (
                found is real or (attribute == "_here" and name == "sidecar.rpc.pools")
            ):
                replaced.append((module, attribute, found))
                setattr(module, attribute, simulated)
    try:
        yield
    finally:
        for module, attribute, found in replaced:
            setattr(module, attribute, found)
