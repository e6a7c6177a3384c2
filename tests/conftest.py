"""What every test owes: no thread, child process or open socket of ours stays behind."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import settings

# The suite tries the same examples each time, so that it passes or fails for what was changed;
# `pytest --hypothesis-profile=search` looks for new ones.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("search", derandomize=False, deadline=None)
settings.load_profile("suite")

# Whoever starts the suite in the background may have it ignore SIGINT, and the programs under test
# would inherit that: Ctrl-C is theirs to answer.
signal.signal(signal.SIGINT, signal.default_int_handler)

SLOW_FILES = frozenset(
    {
        "tests/cli/test_doctor.py",
        "tests/cli/test_local.py",
        "tests/cli/test_renders.py",
        "tests/hostile/test_files.py",
        "tests/hostile/test_limits.py",
        "tests/hostile/test_settings.py",
        "tests/node/test_canary.py",
        "tests/node/test_salvage.py",
        "tests/povray/test_state_file.py",
    }
)
"""Each test of these renders for a second or two; together they are too much for a quick run."""
GRACE_S = 3.0
"""How long a thread or child that was told to end may take to be gone on a busy machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of SLOW_FILES as slow."""
    for item in items:
        if item.nodeid.split("::")[0] in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.is_alive()}


def _sockets() -> set[tuple[int, object, object]]:
    connections = psutil.Process().net_connections(kind="inet")
    return {(found.fd, found.laddr, found.raddr) for found in connections}


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail the test that leaks a thread, a child process or a socket."""
    threads, sockets = _threads(), _sockets()
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    for thread in _threads() - threads:
        thread.join(GRACE_S)
    left = _threads() - threads
    assert not left, f"threads left behind: {sorted(thread.name for thread in left)}"
    new = [c for c in psutil.Process().children(recursive=True) if c.pid not in children]
    _, alive = psutil.wait_procs(new, timeout=GRACE_S)
    assert not alive, f"processes left behind: {alive}"
    if _sockets() - sockets:
        gc.collect()
    open_still = _sockets() - sockets
    assert not open_still, f"sockets left open: {open_still}"
