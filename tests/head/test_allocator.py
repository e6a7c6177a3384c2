"""What was free and stayed with the process goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import weakref
from pathlib import Path

import pytest

from clusterray.head import allocator, one_core, server
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


class Ring:
    """Holds itself."""

    def __init__(self) -> None:
        self.ring = self


@pytest.mark.parametrize("busy", [True, False])
def test_python_looks_at_all_objects_when_a_head_has_little_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, busy: bool
) -> None:
    tidied = threading.Event()
    monkeypatch.setattr(server, "TIDY_EVERY_S", 0.01)
    monkeypatch.setattr(server, "give_back", tidied.set)
    monkeypatch.setattr(one_core.OneCore, "calm", not busy)
    with running_head(tmp_path / "state") as head:
        head.head._cores = one_core.OneCore()
        gone = weakref.ref(old := Ring())
        # It belongs to the old ones now, which only a look at all objects finds.
        gc.collect(1)
        del old
        for _ in range(2):
            tidied.clear()
            assert tidied.wait(20)
        assert (gone() is not None) == busy
