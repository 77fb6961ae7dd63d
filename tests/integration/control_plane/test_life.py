"""Starting and ending."""

import asyncio
import socket
from pathlib import Path

import pytest

from control_plane.app import running
from control_plane.config import settings_from
from sidecar.runtime.listening import CanNotListen


async def test_a_start_that_fails_ends(tmp_path: Path) -> None:
    """The HTTP port is taken: the start fails before anything runs that would go on, or be waited for."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = f"127.0.0.1:{stranger.getsockname()[1]}"
        settings = settings_from(
            database=f"sqlite:///{tmp_path}/books.sqlite3", grpc="127.0.0.1:0", http=taken, stop_seconds=0
        )
        for _ in range(20):
            with pytest.raises(CanNotListen, match="is taken"):
                async with asyncio.timeout(20), running(settings):
                    raise AssertionError("it can not listen")
        still_there = asyncio.all_tasks() - {asyncio.current_task()}
        assert not {task for task in still_there if "run()" in repr(task)}, (
            "no sweeper or poller is left behind"
        )
