"""Landlock, the kernel's own wall around a process: which rights it knows, and rules made of paths.

Three system calls by ctypes, any thread. Of the libraries on PyPI, ``landlock`` (1.0.0.dev5) knows
neither TCP nor scopes, and ``py-landlock`` (0.1.1) builds rules only to lock up the process that
builds them; here the node makes the rules and the launcher puts them up, so that it starts as fast
as before and a path that is not there is a fault of the node's with a name. Numbers and layouts
are those of linux/landlock.h. Knows nothing of POV-Ray.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SYS_CREATE_RULESET = 444
_SYS_ADD_RULE = 445
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

EXECUTE = 1 << 0
WRITE_FILE = 1 << 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
REMOVE_FILE = 1 << 5
MAKE_REG = 1 << 8
TRUNCATE = 1 << 14
IOCTL_DEV = 1 << 15
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""What a rule may allow for a path that is no folder; else the kernel refuses it."""
READ = READ_FILE | READ_DIR
READ_WRITE = READ | WRITE_FILE | TRUNCATE | REMOVE_FILE | MAKE_REG
"""No links, folders, sockets or devices: POV-Ray makes files alone, and whoever reads these later
must not be led elsewhere."""


@dataclass(frozen=True, slots=True)
class _Since:
    """What a version of the interface brought, and what is open without it ("" for nothing)."""

    abi: int
    linux: str
    open_without: str = ""
    fs: int = 0
    net: int = 0
    scoped: int = 0


_RIGHTS = (
    _Since(1, "5.13", fs=0x1FFF),
    # Before it links and moves between folders were always denied.
    _Since(2, "5.19", fs=1 << 13),
    _Since(3, "6.2", "truncating files by their names", fs=TRUNCATE),
    _Since(4, "6.7", "TCP connections", net=0b11),
    _Since(5, "6.10", "ioctl calls to devices", fs=IOCTL_DEV),
    _Since(6, "6.12", "signals to other processes, and abstract Unix sockets", scoped=0b11),
)
_SIZES = {1: 8, 2: 8, 3: 8, 4: 16, 5: 16}
_NEWEST_SIZE = 24


class NoLandlock(Exception):
    """This kernel has no Landlock; the words say why."""


def abi() -> int:
    """Give the version of the kernel's interface, 1 or more; raises NoLandlock."""
    if sys.platform != "linux":
        raise NoLandlock(f"{sys.platform} has none")
    try:
        return _call(_SYS_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise NoLandlock("the kernel has it switched off at boot (lsm=)") from None
        if error.errno == errno.ENOSYS:
            raise NoLandlock("the kernel is built without it") from None
        raise NoLandlock(f"the kernel refuses it: {error.strerror}") from None


def gaps(abi: int) -> list[str]:
    """Name what this version leaves open, each with the Linux that closes it."""
    return [
        f"{since.open_without} (Linux {since.linux} closes that)"
        for since in _RIGHTS
        if since.abi > abi and since.open_without
    ]


def make_ruleset(abi: int, rules: Iterable[tuple[Path, int]]) -> int:
    """Give a descriptor of rules that allow on and below each path just its rights.

    All else that version ``abi`` of the interface can deny is denied, TCP among it. Rights that it
    does not know are left out of the rules, as they cannot be denied either. The caller closes
    the descriptor. OSError with the path's name if one cannot be opened.
    """
    known = [since for since in _RIGHTS if since.abi <= abi]
    handled = sum(since.fs for since in known)
    attributes = struct.pack(
        "=QQQ",
        handled,
        sum(since.net for since in known),
        sum(since.scoped for since in known),
    )[: _SIZES.get(abi, _NEWEST_SIZE)]
    ruleset = _call(_SYS_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights & handled)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def _allow(ruleset: int, path: Path, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        _call(_SYS_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


@functools.cache
def _libc() -> ctypes.CDLL:
    # One for all calls: each CDLL is a ring with a class of its own, which stays in memory until
    # Python looks for rings.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _call(number: int, *arguments: int | bytes | None) -> int:
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = int(_libc().syscall(ctypes.c_long(number), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
