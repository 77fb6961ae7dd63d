"""Who asks: the customer and subject of a request, with what they are entitled to, or why there is nothing to go by."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from sidecar.engine.entitlement import Entitlements
from sidecar.engine.values import Reason
from sidecar.runtime.clock import Clock
from sidecar.view.cold import Cold
from sidecar.view.memory import View

MIN_REVISION_WAIT_SECONDS: Final = 2.0
COLD_WAIT_SECONDS: Final = 5.0
"""How long a cold customer is waited for while the feed is connected, if the caller's deadline allows."""


class Party(NamedTuple):
    """Who asks. With `refusal` OK there are entitlements; CONTROL_PLANE_UNREACHABLE: not known here, and
    nobody to ask.
    """

    customer_id: str
    subject_id: str
    entitlements: Entitlements | None
    stamp: int
    """Of the entitlements; 0: there are none."""
    refusal: Reason
    message: str = ""


@dataclass(frozen=True, slots=True)
class Parties:
    """Finds parties."""

    view: View
    cold: Cold
    clock: Clock
    now: Callable[[], datetime]
    """The control plane's clock as known."""
    blocking: Callable[[], AbstractContextManager[None]]
    """Around waits for the network."""

    def find(
        self,
        customer_id: str,
        subject_id: str,
        *,
        min_revision: int = 0,
        deadline: float,
        waits: bool = True,
        at: datetime | None = None,
    ) -> Party:
        """`deadline`: monotonic seconds. `waits` False: a subject that is not known here is not waited for
        beside a known customer. `at`: what time it is, where the caller has just looked.
        """
        if min_revision and not self._reached(customer_id, min_revision, deadline):
            text = f"the view stands at revision {self.view.revision}, not yet at {min_revision}"
            return Party(customer_id, subject_id, None, 0, Reason.VIEW_TOO_OLD, text)
        if min_revision:
            at = None  # it may have waited
        if subject_id:
            known = self.view.subject(subject_id)
            if known is None and (waits or not customer_id or self.view.customer(customer_id) is None):
                known, at = self.cold.subject(subject_id, self._bounded(deadline)), None
            if known is None and not customer_id:
                text = "the subject is not known here, and the control plane can not be asked"
                return Party("", subject_id, None, 0, Reason.CONTROL_PLANE_UNREACHABLE, text)
            if known is not None and not customer_id:
                if not known.customer_id:
                    text = f"there is no subject {subject_id!r}"
                    return Party("", subject_id, None, 0, Reason.SUBJECT_NOT_FOUND, text)
                customer_id = known.customer_id
            elif known is not None and known.customer_id not in {"", customer_id}:
                text = f"the subject {subject_id!r} belongs to another customer"
                return Party(customer_id, subject_id, None, 0, Reason.SUBJECT_NOT_FOUND, text)
        return self._customer(customer_id, subject_id, deadline, at)

    def _customer(self, customer_id: str, subject_id: str, deadline: float, at: datetime | None) -> Party:
        entry = self.view.customer(customer_id)
        if entry is None:
            entry, at = self.cold.customer(customer_id, self._bounded(deadline)), None
        if entry is None:
            text = "the customer is not known here, and the control plane can not be asked"
            return Party(customer_id, subject_id, None, 0, Reason.CONTROL_PLANE_UNREACHABLE, text)
        if not entry.exists:
            text = f"there is no customer {customer_id!r}"
            return Party(customer_id, subject_id, None, 0, Reason.CUSTOMER_NOT_FOUND, text)
        compiled = self.view.compiled(entry, at or self.now())
        return Party(customer_id, subject_id, compiled.entitlements, compiled.stamp, Reason.OK)

    def _bounded(self, deadline: float) -> float:
        return min(deadline, self.clock.monotonic() + COLD_WAIT_SECONDS)

    def _reached(self, customer_id: str, revision: int, deadline: float) -> bool:
        def stands() -> bool:
            entry = self.view.customer(customer_id) if customer_id else None
            if entry is not None and (entry.revision >= revision or not entry.chained):
                return entry.revision >= revision
            return self.view.revision >= revision

        if stands():
            return True
        if customer_id and self.view.customer(customer_id) is None:
            # Fetching it brings a state that is as new as it gets.
            self.cold.customer(customer_id, self._bounded(deadline))
        left = min(MIN_REVISION_WAIT_SECONDS, deadline - self.clock.monotonic())
        with self.blocking():
            return self.view.wait_for(stands, max(0.0, left))
