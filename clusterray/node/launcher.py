"""The exec launcher: ties POV-Ray's life to the node's, lowers what it may do, and becomes it.

Run as ``python -I -S launcher.py [--yield] PARENT_PID PROGRAM ARGUMENT...`` by node.renderer, in a
session of its own, with POV-Ray's folder and environment set; standard library only, because it
starts once per attempt and nothing of ours is importable under ``-I -S``. It exists because such
calls are not safe between fork and exec of a process with threads (``preexec_fn``).

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
YIELD = "--yield"
NICENESS = 10
"""Gets about a tenth of a core where the bands' threads want all of them."""
MOST_DISPENSABLE = 1000
EXIT_NOT_STARTED = 127
"""What the shell gives for a program that cannot be executed; POV-Ray itself ends with 0, 1, 2."""

# Python ignores SIGPIPE and SIGXFSZ, a shell may have had the others ignored for a background
# process, and what is ignored stays ignored through exec.
_RESET_SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGPIPE", "SIGTERM", "SIGXFSZ")


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
    """Give up what POV-Ray never needs: new privileges, core files, files that others can read.

    The sandbox belongs here, after everything that needs the file system and before exec.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    if sys.platform == "linux":
        _prctl(PR_SET_NO_NEW_PRIVS, 1)


def yield_to_others() -> None:
    """Have the bands' POV-Ray go first: in computing, and in staying when memory runs out.

    Where sessions are scheduled as groups (autogroup), a process's own niceness counts only within
    its session, so that the group is made nice too. A kernel without such a file does without.
    """
    os.nice(NICENESS)
    for file, value in (("autogroup", NICENESS), ("oom_score_adj", MOST_DISPENSABLE)):
        try:
            with open(f"/proc/self/{file}", "w", encoding="ascii") as setting:  # noqa: PTH123
                setting.write(str(value))
        except OSError:
            pass


def reset_signals() -> None:
    """Give the signals that end POV-Ray their usual effect, and unblock them all."""
    for name in _RESET_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def main(arguments: list[str]) -> int:
    """Become the program; comes back, with 127, only if that is impossible."""
    yields = arguments[0] == YIELD
    parent, program, *_ = words = arguments[1:] if yields else arguments
    try:
        die_with_parent(int(parent))
        confine()
        if yields:
            yield_to_others()
        reset_signals()
        os.execv(program, words[1:])
    except OSError as error:
        sys.stderr.write(f"{program} could not be started: {error.strerror or error}\n")
    return EXIT_NOT_STARTED


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
