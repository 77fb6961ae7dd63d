"""What a process under measurement says."""

from tests.benchmarks.processes import objects


def test_a_line_that_is_not_whole_is_not_there_yet() -> None:
    """A long one is written in parts."""
    assert objects('starting\n{"a": 1}\n{"b": [1, ') == [{"a": 1}]
    assert objects('{"a": 1}\n{"b": [1, 2]}\n') == [{"a": 1}, {"b": [1, 2]}]
