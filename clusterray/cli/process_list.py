"""Keeps tokens out of the process list: what `ps` shows of a command line to everybody.

Linux only; elsewhere, and for the moment that a program needs to start, a token pasted behind
``--join`` can be seen by who has an account on the same machine. A token in a file, or in
CLUSTERRAY_JOIN, is never seen.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clusterray.wire.trust import TOKEN_PREFIX

_TOKEN: Final = re.compile(re.escape(TOKEN_PREFIX.encode()) + rb"([A-Za-z0-9_-]+)")
_ARG_START, _ARG_END = 48, 49
"""Numbers of the fields of /proc/PID/stat, see proc(5)."""
_FIRST_AFTER_NAME: Final = 3


def hide_tokens(words: Sequence[str]) -> None:
    """Overwrite the tokens among ``words``, this process's own, where the kernel keeps them."""
    if sys.platform != "linux" or not any(TOKEN_PREFIX in word for word in words):
        return
    with contextlib.suppress(OSError, ValueError, IndexError):
        start, end = _place_of_words()
        for found in _TOKEN.finditer(ctypes.string_at(start, end - start)):
            ctypes.memset(start + found.start(1), ord("x"), found.end(1) - found.start(1))


def _place_of_words() -> tuple[int, int]:
    # The program's name stands in parentheses and may hold anything, parentheses too.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[_ARG_START - _FIRST_AFTER_NAME]), int(fields[_ARG_END - _FIRST_AFTER_NAME])
