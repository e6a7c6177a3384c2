"""What the C library's allocator keeps of memory that is free again: little. And when Python looks.

Any thread; where the C library is not glibc ``share_arenas`` and ``give_back`` do nothing. That one
gives threads up to eight arenas a core to take memory from, and each keeps what was free at once
for the rest of its life, but for its end. A head has many short threads, of which Python lets one
run at a time: many arenas make them no faster, and a crowd of an hour ago would stay in memory.
"""

from __future__ import annotations

import ctypes
import functools
import gc
from collections.abc import Callable
from typing import Final

ARENAS: Final = 2
YOUNG_OBJECTS: Final = 5_000
"""Of so many new objects Python looks for those that only hold each other."""
_YOUNG_LOOKS: Final = 1000
"""After so many looks at new objects, some ten thousand bands, those that stayed are looked at once
more. While that lasts nothing else happens, 40 to 85 ms for 80,000 objects that lie all over the
memory of a head with a thousand nodes: so ``look_at_all`` does it in quiet moments."""
_OLDER_LOOKS: Final = 10
"""After so many of these, all are. Both are for a head that never has a quiet moment."""
_M_ARENA_MAX: Final = -8
"""From glibc's malloc.h."""


def share_arenas() -> None:
    """Have all threads that are still to come share few arenas."""
    mallopt = _of_libc("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)


def look_seldom() -> None:
    """Have Python look seldom for objects that only hold each other.

    A head makes hundreds of objects for a band, and few that end so. As Python does it by itself,
    a sixth of its time went into looking (docs/performance.md).
    """
    gc.set_threshold(YOUNG_OBJECTS, _YOUNG_LOOKS, _OLDER_LOOKS)


def look_at_all() -> None:
    """Have Python let all objects go that only hold each other, however long they have been."""
    gc.collect()


def give_back() -> None:
    """Give the system every page that is wholly free; takes some milliseconds."""
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


@functools.cache
def _of_libc(name: str) -> Callable[..., int] | None:
    # The names are glibc's alone. A call through CDLL lets Python's other threads run meanwhile.
    # Each CDLL is a ring with a class of its own, so one for each name is enough.
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found
