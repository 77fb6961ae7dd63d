"""What is kept for a moment, and no longer."""

from sidecar.rpc.lately import Lately


def test_what_was_put_is_there_for_its_time() -> None:
    """Whatever else is put meanwhile."""
    lately: Lately[int] = Lately(bound=10, seconds=1.0)
    lately.put(b"a", 1, 0.0)
    lately.put(b"b", 2, 0.9)
    lately.put(b"c", 3, 1.8)
    assert [lately.get(key) for key in (b"b", b"c")] == [2, 3]


def test_what_is_old_is_forgotten() -> None:
    """When its time has passed twice, the next one that is put takes its place."""
    lately: Lately[int] = Lately(bound=10, seconds=1.0)
    lately.put(b"a", 1, 0.0)
    lately.put(b"b", 2, 1.5)
    lately.put(b"c", 3, 2.6)
    assert [lately.get(key) for key in (b"a", b"b", b"c")] == [None, 2, 3]
    lately.put(b"d", 4, 60.0)
    assert [lately.get(key) for key in (b"b", b"c", b"d")] == [None, None, 4]


def test_there_are_never_more_than_twice_the_bound() -> None:
    """What was put last is there."""
    lately: Lately[int] = Lately(bound=3, seconds=1.0)
    keys = [b"%d" % number for number in range(50)]
    for number, key in enumerate(keys):
        lately.put(key, number, 0.01 * number)
        assert lately.get(key) == number
        assert sum(lately.get(each) is not None for each in keys) <= 6
