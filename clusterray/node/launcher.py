"""The exec launcher: ties POV-Ray's life to the node's, lowers what it may do, and becomes it.

Run as ``python -I -S launcher.py [ORDER...] PARENT_PID PROGRAM ARGUMENT...`` by node.renderer, in a
session of its own, with POV-Ray's folder and environment set; standard library only, because it
starts once per attempt and nothing of ours is importable under ``-I -S``. It exists because such
calls are not safe between fork and exec of a process with threads (``preexec_fn``).

The orders, which node.sandbox writes:

    --limit=NAME:N   RLIMIT_NAME becomes N, or stays what it is if that is less
    --nice=N         so much nicer than the node
    --dispensable=N  the kernel's oom_score_adj
    --deaf           SIGTERM is ignored: bubblewrap is to outlive it, and resets it for POV-Ray
    --ruleset=FD     the Landlock rules that the node has made; put up last

PR_SET_PDEATHSIG fires when the *thread* that started the launcher ends, so that thread must live
as long as the render. It must know nothing of scenes, the farm or the network.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
SYS_LANDLOCK_RESTRICT_SELF = 446
"""The same on every processor that Landlock runs on (asm-generic/unistd.h)."""
EXIT_NOT_STARTED = 127
"""What the shell gives for a program that cannot be executed; POV-Ray itself ends with 0, 1, 2."""
CPU_GRACE_S = 5
"""Between SIGXCPU and the SIGKILL for who does not heed it."""

# Python ignores SIGPIPE and SIGXFSZ, a shell may have had the others ignored for a background
# process, and what is ignored stays ignored through exec.
_RESET_SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGPIPE", "SIGTERM", "SIGXFSZ", "SIGXCPU")


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent thread ends; Linux only.

    Raises OSError if the kernel refuses, ProcessLookupError if ``parent`` is gone already: then
    the signal would never come.
    """
    if sys.platform != "linux":
        return
    _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        raise ProcessLookupError(f"process {parent}, which asked for this render, is gone")


def confine() -> None:
    """Give up what POV-Ray never needs: new privileges, core files, files that others can read."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    if sys.platform == "linux":
        _prctl(PR_SET_NO_NEW_PRIVS, 1)


def limit(name: str, most: int) -> None:
    """Set a limit, soft and hard alike; never above the one that holds already."""
    kind = getattr(resource, f"RLIMIT_{name}")
    now = resource.getrlimit(kind)[1]
    soft = most if now == resource.RLIM_INFINITY else min(most, now)
    hard = soft
    if name == "CPU" and now == resource.RLIM_INFINITY:
        hard += CPU_GRACE_S
    resource.setrlimit(kind, (soft, hard))


def be_nice(niceness: int) -> None:
    """Have others go first in computing.

    Where sessions are scheduled as groups (autogroup), a process's own niceness counts only within
    its session, so that the group is made nice too.
    """
    os.nice(niceness)
    _write_own("autogroup", niceness)


def be_dispensable(score: int) -> None:
    """Have the kernel choose this process first when memory runs out."""
    _write_own("oom_score_adj", score)


def reset_signals(*, deaf: bool) -> None:
    """Give the signals that end POV-Ray their usual effect, and unblock them all."""
    for name in _RESET_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def put_up(ruleset: int) -> None:
    """Put up the Landlock wall; what follows is inside. Raises OSError if the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(SYS_LANDLOCK_RESTRICT_SELF), ruleset, ctypes.c_uint32(0)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock does not hold: {os.strerror(code)}")
    os.close(ruleset)


def main(arguments: list[str]) -> int:
    """Become the program; comes back, with 127, only if that is impossible."""
    count = next(i for i, word in enumerate(arguments) if not word.startswith("--"))
    orders = [word[2:].partition("=")[::2] for word in arguments[:count]]
    parent, program, *_ = words = arguments[count:]
    try:
        die_with_parent(int(parent))
        confine()
        _obey(orders)
        os.execv(program, words[1:])
    except OSError as error:
        sys.stderr.write(f"{program} could not be started: {error.strerror or error}\n")
    return EXIT_NOT_STARTED


def _obey(orders: list[tuple[str, str]]) -> None:
    given = {name: value for name, value in orders if name != "limit"}
    for name, value in orders:
        if name == "limit":
            kind, _, most = value.partition(":")
            limit(kind, int(most))
    if "nice" in given:
        be_nice(int(given["nice"]))
    if "dispensable" in given:
        be_dispensable(int(given["dispensable"]))
    reset_signals(deaf="deaf" in given)
    if "ruleset" in given:
        put_up(int(given["ruleset"]))


def _write_own(file: str, value: int) -> None:
    """Write a setting of this process, which not every kernel has."""
    try:
        with open(f"/proc/self/{file}", "w", encoding="ascii") as setting:  # noqa: PTH123
            setting.write(str(value))
    except OSError:
        pass


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
