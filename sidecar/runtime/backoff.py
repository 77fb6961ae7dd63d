"""Waiting longer after each failure, at random, so that a fleet does not come back as one."""

from random import Random


class Backoff:
    """Full jitter: after n failures anything from 0 to `first * 2^n` seconds, at most `longest`."""

    def __init__(self, random: Random, *, first_seconds: float = 0.1, longest_seconds: float = 10.0) -> None:
        """`random` is seeded by whoever wants it repeatable."""
        self._random = random
        self._first = first_seconds
        self._longest = longest_seconds
        self.failures = 0

    def failed(self) -> float:
        """One more failure; how many seconds to wait now."""
        self.failures += 1
        return jittered(self._random, self.failures - 1, self._first, self._longest)

    def worked(self) -> None:
        """Starts over."""
        self.failures = 0


def jittered(random: Random, tries: int, first_seconds: float, longest_seconds: float) -> float:
    """Anything from 0 to `first * 2^tries`, at most `longest`, in seconds."""
    return random.uniform(0.0, min(longest_seconds, first_seconds * 2.0 ** min(tries, 30)))
