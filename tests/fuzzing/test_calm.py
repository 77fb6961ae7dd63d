"""What says that all was calm can fail."""

import logging

import pytest
import structlog

from tests.fuzzing.calm import MARK, MIB, within_memory, within_process_memory, without_traceback


def test_python_memory_is_counted() -> None:
    """Also what was let go again."""
    with pytest.raises(AssertionError, match="MiB"), within_memory(mib=10):
        bytearray(20 * MIB)


@pytest.mark.parametrize("before", [0, 300] if MARK.exists() else [0])
def test_the_process_s_memory_is_counted(before: int) -> None:
    """Also what was let go again; and whatever the process once had, it is what came inside that counts."""
    bytearray(b"x") * (before * MIB)
    with pytest.raises(AssertionError, match="MiB"), within_process_memory(mib=50):
        bytearray(b"x") * (100 * MIB)
    with within_process_memory(mib=50):
        bytearray(b"x") * (10 * MIB)


def test_a_traceback_is_heard() -> None:
    """Ours, and what a library says with one."""
    with pytest.raises(AssertionError), without_traceback():
        structlog.get_logger().error("a call failed", exc_info=ValueError("x"))
    with pytest.raises(AssertionError), without_traceback():
        logging.getLogger("grpc._common").error("Exception deserializing message!")
    with without_traceback() as entries:
        structlog.get_logger().error("in words")
    assert entries == [{"event": "in words", "log_level": "error"}]
