"""Refusals that the control plane has given, remembered until the balance changes: nobody asks twice in vain, nor
ahead of callers where others wait.
"""

from collections.abc import Collection
from typing import Final

from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.leases import arrival
from sidecar.leases.requests import Remembered, Wanted
from sidecar.leases.terms import Acquired

WAITED_FOR_SECONDS: Final = 2.0
"""Nobody waits for longer than that for what is recalled."""


class RememberedRefusals:
    """By balance and demand key. Guarded by the keeper's lock."""

    def __init__(self) -> None:
        """Nothing was refused."""
        self._known: dict[BalanceRef, dict[str, Remembered]] = {}
        self._versions: dict[BalanceRef, int] = {}
        self._waited_for: dict[BalanceRef, float] = {}

    def answer(self, ref: BalanceRef, feature: str, missing: int, now: float) -> Acquired | None:
        """The refusal that holds for so much; None: the control plane must be asked."""
        known = self._known.get(ref, {}).get(feature)
        if known is None or now >= known.until or missing < known.missing:
            return None
        return known.acquired

    def is_scarce(self, ref: BalanceRef, feature: str, now: float) -> bool:
        """Was anything refused, or wanted back for a caller elsewhere? Then nothing is asked for ahead of callers."""
        return feature in self._known.get(ref, {}) or now < self._waited_for.get(ref, now)

    def note(self, want: Wanted, acquired: session.Acquired, outcome: Acquired, now: float) -> None:
        """The control plane has answered: an earlier refusal does not hold any more, but perhaps this one."""
        self._known.get(want.ref, {}).pop(want.feature, None)
        if not (acquired.HasField("refusal") and want.need):
            return
        is_news = acquired.hint.version >= self._versions.get(want.ref, 0)
        seconds = arrival.remembered_seconds(want.ref, outcome)
        if is_news and seconds > 0:
            if acquired.refusal.HasField("available"):
                least = acquired.refusal.available + 1
            else:
                least = want.need if acquired.hint.available > 0 else 1
            known = Remembered(outcome, least, acquired.hint.version, now + seconds)
            self._known.setdefault(want.ref, {})[want.feature] = known

    def hinted(self, ref: BalanceRef, version: int, *, is_asked: bool) -> None:
        """The balance has this version: refusals of an older one are forgotten. `is_asked`: a reply is on its
        way, which may be older.
        """
        if ref in self._known or is_asked:
            self._versions[ref] = max(version, self._versions.get(ref, 0))
            known = self._known.pop(ref, {})
            kept = {feature: one for feature, one in known.items() if one.version >= version}
            if kept:
                self._known[ref] = kept

    def recalled(self, ref: BalanceRef, now: float, *, idle_only: bool) -> None:
        """The balance was recalled: whatever was refused may be there again. What is idle is for whoever waits
        elsewhere, and would not reach them if those that gave it back asked for it at once.
        """
        self._known.pop(ref, None)
        if idle_only:
            self._waited_for[ref] = now + WAITED_FOR_SECONDS

    def forget_customers(self, customer_ids: Collection[str]) -> None:
        """These customers changed."""
        for ref in [ref for ref in self._known if ref.customer_id in customer_ids]:
            del self._known[ref]

    def tidy(self, now: float, asked: Collection[BalanceRef]) -> None:
        """Forgets what has run out. `asked`: balances whose reply is on its way."""
        for ref, known in list(self._known.items()):
            left = {feature: one for feature, one in known.items() if now < one.until}
            if left:
                self._known[ref] = left
            else:
                del self._known[ref]
        for ref in [ref for ref, until in self._waited_for.items() if now >= until]:
            del self._waited_for[ref]
        for ref in [ref for ref in self._versions if ref not in self._known and ref not in asked]:
            del self._versions[ref]
