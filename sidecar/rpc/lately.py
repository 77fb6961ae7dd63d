"""What is kept for a moment, by the bytes it was made for: no list of what is old, and no order of use."""

from typing import Generic, TypeVar

Value = TypeVar("Value")


class Lately(Generic[Value]):
    """Keeps what is put for `seconds`, and as long as something is put no longer than twice that; of more than `bound`
    in that time, the later ones. Thread-safe without a lock: at worst a value is forgotten early.
    """

    __slots__ = ("_bound", "_old", "_seconds", "_turns_at", "_young")

    def __init__(self, *, bound: int, seconds: float) -> None:
        """Nothing is kept yet. Whether a value still holds is for its reader to know."""
        self._bound = bound
        self._seconds = seconds
        self._turns_at = float("-inf")
        self._young: dict[bytes, Value] = {}
        self._old: dict[bytes, Value] = {}

    def get(self, key: bytes) -> Value | None:
        """The value; None: it was not put lately."""
        value = self._young.get(key)
        return self._old.get(key) if value is None else value

    def put(self, key: bytes, value: Value, now: float) -> None:
        """Keeps it. `now`: monotonic seconds."""
        if now >= self._turns_at:
            is_long_ago = now >= self._turns_at + self._seconds
            self._old, self._young = {} if is_long_ago else self._young, {}
            self._turns_at = now + self._seconds
        elif len(self._young) >= self._bound:
            self._old, self._young = {}, {}
        self._young[key] = value
