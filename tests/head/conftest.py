"""Fixtures of the head's tests: nothing may be left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def _threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def _open_files() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails the test if a thread or a file descriptor of it is still there afterwards."""
    threads, files = _threads(), len(_open_files())
    yield
    assert _threads() - threads == set()
    assert len(_open_files()) <= files


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Gives ``wait_for(condition)``: returns as soon as it holds, fails after ten seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10.0
        while not condition():
            assert time.monotonic() < deadline, "waited ten seconds in vain"
            threading.Event().wait(0.005)

    return wait


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Gives a folder with the smallest scene there is."""
    folder = tmp_path / "scene"
    folder.mkdir()
    (folder / "a.pov").write_text("sphere { 0, 1 }\n")
    return folder
