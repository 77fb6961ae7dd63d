"""Wakes inside one process: what is committed here is heard at once, what other replicas commit by polling."""

import asyncio
from collections import defaultdict

POLL_SECONDS = 0.1
"""How long a wait for a balance goes on at most before its caller looks for itself."""


class Bus:
    """One per process and database: `database.kept(Bus)`, inside a transaction `uow.kept(Bus)`.

    Its notices carry no truth: whoever is woken reads the database. Call them after the commit:
    `uow.after_commit(lambda: bus.balance_changed(balance_id))`.
    """

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._feed_wanted = asyncio.Event()

    def balance_changed(self, balance_id: str) -> None:
        """Something came back to the balance, or a recall of it was answered."""
        for waiting in self._waiting.pop(balance_id, ()):
            if not waiting.done():
                waiting.set_result(None)

    def recalls_posted(self) -> None:
        """New rows are in `recalls`: the poller fans them out without waiting for its next turn."""
        self._feed_wanted.set()

    def wake_feed(self) -> None:
        """A revision was committed."""
        self._feed_wanted.set()

    async def wait_changed(self, balance_id: str, timeout_seconds: float) -> None:
        """Returns when the balance changed in this process, and after `timeout_seconds` or POLL_SECONDS, whichever is
        less: another replica may have changed it. Look, wait, look again; hold no transaction meanwhile.
        """
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[balance_id].add(waiting)
        try:
            await asyncio.wait_for(waiting, min(timeout_seconds, POLL_SECONDS))
        except TimeoutError:
            return
        finally:
            others = self._waiting.get(balance_id)
            if others is not None:
                others.discard(waiting)
                if not others:
                    del self._waiting[balance_id]

    async def wait_feed(self, timeout_seconds: float) -> None:
        """Returns when the feed has something new, or after the timeout. For the poller alone."""
        try:
            await asyncio.wait_for(self._feed_wanted.wait(), timeout_seconds)
        except TimeoutError:
            return
        finally:
            self._feed_wanted.clear()
