"""Runs a program as a systemd unit would confine it, as far as that can be had without systemd.

``python unit_filter.py FILE... -- PROGRAM ARGUMENT...``: the unit's system-call filter, with the
groups that systemd-analyze knows, its namespaces and address families, by libseccomp as systemd
itself does it; no memory that is written and executed; no capability and no new privileges. Not
its file system: for that systemd has to run. Units are read in order, as a unit and its drop-ins.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ALLOW = 0x7FFF0000
NAMESPACES = {
    "mnt": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
EQUAL, MASKED_EQUAL = 4, 7
PR_SET_MDWE = 65
PR_CAPBSET_DROP = 24
CAP_SETFCAP = 31
LAST_CAPABILITY = Path("/proc/sys/kernel/cap_last_cap")


class _Argument(ctypes.Structure):
    """libseccomp's scmp_arg_cmp."""

    _fields_ = (
        ("number", ctypes.c_uint),
        ("how", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def settings(files: Iterable[Path], key: str) -> list[str]:
    """Give a key's values in order; an empty one clears those before it, as in systemd."""
    found: list[str] = []
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            name, equals, value = line.partition("=")
            if equals and name == key:
                found = [*found, value] if value else []
    return found


@functools.cache
def group(name: str) -> frozenset[str]:
    """Give the system calls of one of systemd's groups, those of groups within it too."""
    shown = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
    ).stdout
    words = [line.strip() for line in shown.splitlines()[1:] if line.startswith("    ")]
    return calls(word for word in words if not word.startswith("#"))


def calls(words: Iterable[str]) -> frozenset[str]:
    return frozenset().union(
        *(group(word) if word.startswith("@") else frozenset({word}) for word in words)
    )


def allowed_calls(files: Sequence[Path]) -> frozenset[str]:
    """Give what the lines of SystemCallFilter leave, the first of which is an allow-list."""
    allowed = group("@default")
    for value in settings(files, "SystemCallFilter"):
        if value.startswith("~"):
            allowed -= calls(value[1:].split())
        else:
            allowed |= calls(value.split())
    return allowed


class Filter:
    """A filter of system calls by libseccomp."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(_error(errno.EPERM)))

    def rule(self, action: int, call: str, *arguments: tuple[int, int, int, int]) -> None:
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number == -1:
            # Of another processor.
            return
        array = (_Argument * len(arguments))(*(_Argument(*each) for each in arguments))
        done = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(arguments), array
        )
        # What this processor has under another name is passed over, as systemd does.
        assert done in (0, -errno.EDOM), (call, done)

    def load(self) -> None:
        done = self._library.seccomp_load(self._context)
        assert done == 0, os.strerror(-done)


def _error(number: int) -> int:
    return 0x00050000 | number


def confine(files: Sequence[Path]) -> None:
    """Put this process under what the unit says."""
    own = Filter()
    named = " ".join(settings(files, "RestrictNamespaces")[-1:]).split()
    opened = sum(NAMESPACES[name] for name in named if name != "yes")
    closed = sum(NAMESPACES.values()) & ~opened
    families = " ".join(settings(files, "RestrictAddressFamilies")).split()
    special = {"clone", "clone3", "unshare", "setns", "socket"}
    allowed = allowed_calls(files)
    for call in sorted(allowed - special):
        own.rule(ALLOW, call)
    for call in sorted({"clone", "unshare"} & allowed):
        own.rule(ALLOW, call, (0, MASKED_EQUAL, closed, 0))
    # Its flags lie in memory, where no filter sees them: systemd lets programs fall back to clone.
    own.rule(_error(errno.ENOSYS), "clone3")
    for family in families:
        own.rule(ALLOW, "socket", (0, EQUAL, FAMILIES[family], 0))
    _no_capabilities()
    libc = ctypes.CDLL(None, use_errno=True)
    if settings(files, "MemoryDenyWriteExecute") == ["yes"]:
        # Linux 6.3 and later; older ones go without.
        libc.prctl(PR_SET_MDWE, 1, 0, 0, 0)
    own.load()


def _no_capabilities() -> None:
    """Root keeps its number and next to nothing else, from the next program on.

    Where a unit runs as a user, root here needs one capability to give itself a user namespace.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(int(LAST_CAPABILITY.read_text()) + 1):
        if capability != CAP_SETFCAP:
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


if __name__ == "__main__":
    cut = sys.argv.index("--")
    confine([Path(word) for word in sys.argv[1:cut]])
    os.execv(sys.argv[cut + 1], sys.argv[cut + 1 :])
