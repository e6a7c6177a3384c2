"""What this machine offers: cores and memory, seen through the limits a container sets; its boot.

Reads /proc and /sys where they exist; any thread. Knows nothing of the farm.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Inside a container this is the container's own group (cgroup v2)."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Count the cores that this process may use: its affinity, and no more than its CPU quota.

    POV-Ray by itself counts all cores and ignores the quota (POVRAY.md 9), hence ours.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _quota_cores(cgroup) or cores))


def memory_bytes(cgroup: Path = CGROUP) -> int:
    """Give the bytes of memory that this process may use."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    words = _words(cgroup / "memory.max")
    if words and words[0].isdigit():
        return min(physical, int(words[0]))
    return physical


def boot_id() -> str:
    """Name the boot this machine is in: what was not flushed to the disk before may be zeros."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _quota_cores(cgroup: Path) -> int | None:
    """Read ``cpu.max``: quota and period in microseconds, or "max" for no quota."""
    words = _words(cgroup / "cpu.max")
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None
    return math.ceil(int(words[0]) / int(words[1]))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
