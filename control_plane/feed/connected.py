"""Who follows the feed here and now."""

from collections import Counter

from control_plane.leases.tables import HolderKey


class Connected:
    """One per process and database: `database.kept(Connected)`. Other replicas have streams of their own."""

    def __init__(self) -> None:
        self._streams: Counter[HolderKey] = Counter()

    def __contains__(self, holder: HolderKey) -> bool:
        return self._streams[holder] > 0

    def join(self, holder: HolderKey) -> None:
        """A stream of this holder is open."""
        self._streams[holder] += 1

    def leave(self, holder: HolderKey) -> None:
        """One is over; a new one may have come before."""
        self._streams[holder] -= 1
        if not self._streams[holder]:
            del self._streams[holder]
