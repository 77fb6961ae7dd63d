"""Rounds: what is asked while others are being answered is answered together, in the next transaction.

Who asks alone waits for nobody. The more ask, the more share a transaction, so what each costs falls as the load grows;
databases do the same with commits ("group commit", DeWitt et al., SIGMOD 1984).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

MOST: Final = 64
"""Of those who ask in one round: each waits for all, and the round's locks are held so long."""
LONG_SECONDS: Final = 0.2
"""A round that takes longer, because others hold what it needs, holds up nobody else: another one begins."""
AT_ONCE: Final = 4
"""Rounds at a time, all but one of them long."""
GATHER_SECONDS: Final = 0.002
"""After a round of several the next waits for as many again and as long as one more comes within this time, but never
longer than half of what that round took. Those who were answered a moment ago ask again in a moment, and a call takes a
turn of the event loop to be heard of: the first few would have a round to themselves, at nearly the price of all.
"""

Asked = TypeVar("Asked")
Told = TypeVar("Told")


@dataclass(slots=True, eq=False)
class _Asking(Generic[Asked, Told]):
    """Somebody who waits."""

    key: Hashable
    asked: Asked
    told: "asyncio.Future[Told]"


class Rounds(Generic[Asked, Told]):
    """Those of one process."""

    def __init__(self, answer: Callable[[Sequence[Asked]], Awaitable[Sequence[Told]]]) -> None:
        """`answer` is asked about a round and tells everybody's answer, in order. What it raises everybody hears."""
        self._answer = answer
        self._waiting: deque[_Asking[Asked, Told]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._next_up: asyncio.Task[None] | None = None
        """The one of them that takes who asks next, once it has answered those whom it has."""
        self._shared_by, self._seconds = 0, 0.0
        """How many the last round had, and how long it took."""

    async def take_part(self, key: Hashable, asked: Asked) -> Told:
        """The answer, from a round in which nobody else has this key.

        A round goes on to its end when a caller is cancelled; who is cancelled before it begins is left out.
        """
        asking: _Asking[Asked, Told] = _Asking(key, asked, asyncio.get_running_loop().create_future())
        self._waiting.append(asking)
        self._begin()
        return await asking.told

    def _begin(self) -> None:
        if self._waiting and self._next_up is None and len(self._running) < AT_ONCE:
            self._next_up = asyncio.get_running_loop().create_task(self._run())
            self._running.add(self._next_up)

    async def _run(self) -> None:
        me = asyncio.current_task()
        assert me is not None, "it is run as a task"
        try:
            while self._next_up is me and (taken := await self._gathered()):
                loop = asyncio.get_running_loop()
                began, is_long = loop.time(), loop.call_later(LONG_SECONDS, self._pass_by, me)
                try:
                    await self._tell(taken)
                finally:
                    is_long.cancel()
                    self._seconds = loop.time() - began
        finally:
            # Before anything else runs: whoever asks next finds that nobody is at it.
            self._running.discard(me)
            self._pass_by(me)

    def _pass_by(self, task: "asyncio.Task[None]") -> None:
        if self._next_up is task:
            self._next_up = None
        self._begin()

    async def _gathered(self) -> list[_Asking[Asked, Told]]:
        """Those of the next round."""
        now = asyncio.get_running_loop().time
        until = now() + self._seconds / 2 if self._shared_by > 1 else 0.0
        while now() < until and (before := len(self._waiting)) < MOST:
            await asyncio.sleep(GATHER_SECONDS)
            if before == len(self._waiting) >= self._shared_by:
                break
        taken = self._next()
        self._shared_by = len(taken)
        return taken

    def _next(self) -> list[_Asking[Asked, Told]]:
        """Those of the next round, the longest waiting first."""
        taken: dict[Hashable, _Asking[Asked, Told]] = {}
        later: list[_Asking[Asked, Told]] = []
        while self._waiting and len(taken) < MOST:
            asking = self._waiting.popleft()
            if not asking.told.done() and taken.setdefault(asking.key, asking) is not asking:
                later.append(asking)
        self._waiting.extendleft(reversed(later))
        return list(taken.values())

    async def _tell(self, taken: Sequence[_Asking[Asked, Told]]) -> None:
        try:
            answers = await self._answer([asking.asked for asking in taken])
        except Exception as error:  # noqa: BLE001 - whoever asked raises it
            for asking in taken:
                if not asking.told.done():
                    asking.told.set_exception(error)
        else:
            for asking, answer in zip(taken, answers, strict=True):
                if not asking.told.done():
                    asking.told.set_result(answer)
        finally:
            for asking in taken:
                asking.told.cancel()  # the process ends: nobody waits for ever. Who was told already stays so.
