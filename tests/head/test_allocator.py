"""What was free and stayed with the process goes back to the system."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import pytest

from clusterray.head import allocator, server
from tests.head.peers import Peer, running_head

HAS_GLIBC = hasattr(ctypes.CDLL(None), "malloc_trim")
PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


def resident() -> int:
    """Give this process's resident memory, in bytes."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE


@pytest.mark.skipif(not HAS_GLIBC, reason="another C library keeps memory in ways of its own")
def test_what_a_crowd_leaves_free_goes_back_to_the_system() -> None:
    # Blocks too large for Python's own allocator, and one in fifty stays, as it does in life.
    crowd = [bytes(1000) for _ in range(64_000)]
    staying = crowd[::50]
    crowd.clear()
    before = resident()
    allocator.give_back()
    assert len(staying) == 1280
    assert before - resident() > 32 * MIB


def test_a_head_gives_back_now_and_then_and_forgets_who_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tidied = threading.Event()
    monkeypatch.setattr(server, "TIDY_EVERY_S", 0.01)
    monkeypatch.setattr(server, "give_back", tidied.set)
    with running_head(tmp_path / "state") as head:
        with Peer(head) as client:
            client.join("submit")
            (connection,) = head.head._connections
        connection.join()
        for _ in range(2):
            # The first may have begun before the thread ended.
            tidied.clear()
            assert tidied.wait(20)
        assert head.head._connections == []
