"""Reservations whose time has run out."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from sidecar.deciding.reserving.desk import Desk
from sidecar.deciding.reserving.ending import Ending
from sidecar.engine.reservation import ReservationState
from sidecar.runtime.trouble import NotWritten, OutcomeUnknown

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Expiry:
    """Ends them."""

    desk: Desk
    ending: Ending
    now: Callable[[], datetime]

    def __call__(self) -> int:
        """Ends what has run out; what fails is tried again next time. Returns how many."""
        now = self.now()
        ended = 0
        for reservation_id in self.desk.due(now):
            try:
                with self.desk.alone(reservation_id):
                    found = self.desk.find(reservation_id)
                    if found is None or not found.is_open or found.expires_at > now:
                        continue
                    if found.was_settled and not self.desk.is_known(found):
                        # After a restart its customer is on the way. What it holds pays for it as soon as that is
                        # here; until then nothing could be booked anyway.
                        continue
                    self.ending(found, ReservationState.EXPIRED)
                    ended += 1
            except (NotWritten, OutcomeUnknown) as error:
                _log.warning(
                    "a reservation could not be ended yet", reservation_id=reservation_id, cause=str(error)
                )
            except Exception:  # noqa: BLE001
                # One that can not be ended must not keep those behind it.
                _log.exception("a reservation could not be ended", reservation_id=reservation_id)
        return ended
