"""What this machine offers: cores and memory, seen through the limits a container sets; its boot.

Reads /proc and /sys where they exist; any thread. Knows nothing of the farm.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Inside a container this is the container's own group (cgroup v2)."""
MEMINFO = Path("/proc/meminfo")
_IDLE = "inactive_file"
_CPU_TIMES = slice(11, 15)
_CPUCLOCK_SCHED = 2
"""User and system time, own and children's, as proc(5) counts them behind the name."""
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


def memory_left(cgroup: Path = CGROUP) -> int:
    """Give the bytes of memory that this process could take now before something must give way.

    Files that the kernel keeps in memory only to be quick count as free.
    """
    left = memory_bytes(cgroup)
    for words in _lines(MEMINFO):
        if words[:1] == ["MemAvailable:"]:
            left = min(left, int(words[1]) * 1024)
    limit, used = _words(cgroup / "memory.max"), _words(cgroup / "memory.current")
    if limit and limit[0].isdigit() and used:
        idle = [int(words[1]) for words in _lines(cgroup / "memory.stat") if words[0] == _IDLE]
        left = min(left, int(limit[0]) - int(used[0]) + sum(idle))
    return max(0, left)


def process_cpu_s(pid: int) -> float:
    """Give the CPU seconds of a process and of all it has started; 0 if it is gone."""
    return sum(map(_own_cpu_s, _family(pid)))


def fine_cpu_s(pid: int) -> float:
    """Give the CPU seconds of a process and of those it has started that still run.

    Not in ticks of 10 ms, as ``process_cpu_s``, but to the microsecond; 0 if it is gone.
    """
    return sum(map(_clock_s, _family(pid)))


def process_written(pid: int) -> int:
    """Give the bytes that a process and those it has started, which still run, have written.

    Into files or elsewhere, on the disk already or not; 0 where the kernel does not count them.
    """
    return sum(
        int(words[1])
        for member in _family(pid)
        for words in _lines(Path(f"/proc/{member}/io"))
        if words[0] == "wchar:"
    )


def process_largest(pid: int) -> int:
    """Give the most bytes of memory that a process, and those it has started, ever had at once.

    Each by itself, added up; 0 where the kernel does not say.
    """
    return 1024 * sum(
        int(words[1])
        for member in _family(pid)
        for words in _lines(Path(f"/proc/{member}/status"))
        if words[0] == "VmHWM:"
    )


def _family(pid: int) -> list[int]:
    """Give a process and its descendants, as far as the kernel names them."""
    family = [pid]
    for member in family:
        family += map(int, _words(Path(f"/proc/{member}/task/{member}/children")))
    return family


def _own_cpu_s(pid: int) -> float:
    # The second word is the program's name, in brackets and of any letters.
    words = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(int(word) for word in words[_CPU_TIMES]) / os.sysconf("SC_CLK_TCK")


def _clock_s(pid: int) -> float:
    try:
        # Linux's clock of another process (clock_getcpuclockid(3), which Python lacks).
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return 0.0


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
    return [word for words in _lines(file) for word in words]


def _lines(file: Path) -> list[list[str]]:
    """Give the words of each line that has any; none of a file that is not there."""
    return [words for words in map(str.split, _read(file).splitlines()) if words]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
