from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.node.doubles import HeadDouble


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """No thread, process or descriptor outlives a test."""
    me = psutil.Process()
    threads, descriptors = set(threading.enumerate()), me.num_fds()
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
        assert not thread.is_alive(), f"{thread.name} is left"
    _gone, alive = psutil.wait_procs(me.children(recursive=True), timeout=5)
    assert not alive
    assert me.num_fds() <= descriptors


@pytest.fixture
def head(tmp_path: Path) -> Iterator[HeadDouble]:
    double = HeadDouble(tmp_path / "stage")
    yield double
    double.close()
