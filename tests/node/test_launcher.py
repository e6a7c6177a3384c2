from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from clusterray.node import launcher

_WITH_LAUNCHER = [sys.executable, "-I", "-S", str(Path(launcher.__file__))]

_TELL = """
import json, os, resource, signal
status = open("/proc/self/status").read()
print(json.dumps({
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "umask": os.umask(0),
    "privileges": [line.split()[1] for line in status.splitlines() if "NoNewPrivs" in line],
    "ignored": [line.split()[1] for line in status.splitlines() if "SigIgn" in line],
    "blocked": [line.split()[1] for line in status.splitlines() if "SigBlk" in line],
    "arguments": __import__("sys").argv[1:],
}))
"""


def launch(*command: str, parent: int | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*_WITH_LAUNCHER, str(parent or os.getpid()), *command], capture_output=True, check=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_program_gets_its_arguments_and_no_more_than_it_needs() -> None:
    # Python itself ignores SIGPIPE (13) and SIGXFSZ (25) from its start, so read them in sh.
    shell = "grep SigIgn /proc/self/status"
    result = launch("/bin/sh", "-c", shell)
    ignored = int(result.stdout.split()[1], 16)
    # 32 and 33 are the C library's own, which no program can set back.
    assert ignored & 0x7FFFFFFF == 0, result
    result = launch(sys.executable, "-I", "-c", _TELL, "a b", "c;d", "")
    told = json.loads(result.stdout)
    assert told["core"] == [0, 0]
    assert told["umask"] == 0o077
    assert told["privileges"] == ["1"]
    assert int(told["blocked"][0], 16) == 0
    assert told["arguments"] == ["a b", "c;d", ""]


def test_a_signal_that_the_caller_ignores_ends_the_program_all_the_same() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = launch("/bin/sh", "-c", "kill -HUP $$; echo survived")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.returncode == -signal.SIGHUP
    assert result.stdout == b""


def test_a_program_that_is_not_there_is_named() -> None:
    result = launch("/nowhere/povray")
    assert result.returncode == launcher.EXIT_NOT_STARTED
    assert result.stderr == b"/nowhere/povray could not be started: No such file or directory\n"


def ordered(*orders: str, program: tuple[str, ...]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*_WITH_LAUNCHER, *orders, str(os.getpid()), *program], capture_output=True, check=False
    )


def test_limits_are_set_and_never_raised() -> None:
    tell = "import resource as r; print(*r.getrlimit(r.RLIMIT_NOFILE), *r.getrlimit(r.RLIMIT_CPU))"
    program = (sys.executable, "-I", "-c", tell)
    lower = ordered("--limit=NOFILE:99", "--limit=CPU:7", program=program)
    assert lower.stdout.split() == [b"99", b"99", b"7", b"12"], lower.stderr
    twice = ordered("--limit=NOFILE:99", "--limit=NOFILE:999", program=program)
    assert twice.stdout.split()[:2] == [b"99", b"99"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_niceness_and_dispensability_are_set() -> None:
    tell = "import os; print(os.nice(0), open('/proc/self/oom_score_adj').read())"
    done = ordered("--nice=3", "--dispensable=700", program=(sys.executable, "-I", "-c", tell))
    assert done.stdout.split() == [str(os.nice(0) + 3).encode(), b"700"], done.stderr


def test_a_program_that_is_to_outlive_sigterm_does() -> None:
    done = ordered("--deaf", program=("/bin/sh", "-c", "kill -TERM $$; echo survived"))
    assert done.stdout == b"survived\n"


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock")
def test_a_wall_that_does_not_hold_keeps_the_program_from_starting() -> None:
    done = ordered("--ruleset=0", program=("/bin/echo", "started"))
    assert done.returncode == launcher.EXIT_NOT_STARTED
    assert done.stdout == b""
    assert b"/bin/echo could not be started: Landlock does not hold" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_a_parent_that_is_gone_already_is_noticed() -> None:
    result = launch("/bin/echo", "started", parent=1 << 22)
    assert result.returncode == launcher.EXIT_NOT_STARTED
    assert result.stdout == b""
    assert b"is gone" in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_the_program_dies_with_its_parent() -> None:
    middle = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen({_WITH_LAUNCHER!r} + [str(os.getpid()), '/bin/sh', '-c',"
        " 'echo $$; exec sleep 1000'], start_new_session=True)\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", middle], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        sleeper = psutil.Process(int(parent.stdout.readline()))
        assert sleeper.is_running()
        parent.kill()
        gone, alive = psutil.wait_procs([sleeper], timeout=10)
    assert gone, alive
