"""What this machine would be as a node, found out without being one: for ``clusterray doctor``.

Runs POV-Ray on the test picture, behind the wall that a node would have here. Main thread; needs no
head and takes no lock, so that it may run beside the daemon.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from clusterray.core.errors import LocalFault
from clusterray.node import landlock
from clusterray.node.canary import PovrayWatch
from clusterray.node.daemon import find_povray, find_sandbox
from clusterray.node.machine import memory_bytes, usable_cores
from clusterray.node.sandbox import OPEN_FILES, Sandbox, look_for_walls
from clusterray.node.settings import NodeSettings


@dataclass(slots=True)
class Findings:
    """What was found; ``faults`` are what keeps a node from working here, in sentences.

    Sizes are bytes and times seconds; ``wall`` is "" where none can be had, ``landlock_abi`` 0
    without Landlock, ``bubblewrap`` the program's path or "".
    """

    cores: int
    threads: int
    machine_memory_bytes: int
    work: str
    work_free_bytes: int
    landlock_abi: int
    landlock_missing: list[str]
    no_landlock: str
    bubblewrap: str
    no_bubblewrap: str
    povray: str = ""
    povray_version: str = ""
    povray_build: str = ""
    wall: str = ""
    memory_limit_bytes: int = 0
    file_limit_bytes: int = 0
    cpu_limit_s: int = 0
    wall_limit_s: float = 0.0
    open_files: int = OPEN_FILES
    faults: list[str] = field(default_factory=list)


def examine(settings: NodeSettings) -> Findings:
    """Look at this machine with the eyes of a node of these settings; takes a second or two."""
    walls = look_for_walls()
    cores = usable_cores()
    found = Findings(
        cores=cores,
        threads=settings.threads or cores,
        machine_memory_bytes=memory_bytes(),
        work=str(settings.work),
        work_free_bytes=_free_bytes(settings.work),
        landlock_abi=walls.abi,
        landlock_missing=landlock.gaps(walls.abi) if walls.abi else [],
        no_landlock=walls.no_landlock,
        bubblewrap=walls.bwrap[0] if walls.bwrap else "",
        no_bubblewrap=walls.no_bubblewrap,
    )
    if found.work_free_bytes < settings.least_free_bytes:
        found.faults.append(
            f"{found.work_free_bytes} bytes are free in {found.work}, and "
            f"{settings.least_free_bytes} are needed (least_free_bytes)"
        )
    try:
        sandbox = find_sandbox(settings, walls)
        _take_limits(found, sandbox)
        found.povray = find_povray(settings.povray)
        _try_povray(found, sandbox)
    except LocalFault as fault:
        found.faults.append(str(fault))
    return found


def _take_limits(found: Findings, sandbox: Sandbox) -> None:
    limits = sandbox.limits
    found.wall = sandbox.wall.value
    found.memory_limit_bytes = limits.memory_bytes
    found.file_limit_bytes = limits.file_bytes
    found.cpu_limit_s = limits.cpu_seconds(found.threads)
    found.wall_limit_s = limits.wall_s


def _try_povray(found: Findings, sandbox: Sandbox) -> None:
    with tempfile.TemporaryDirectory(prefix="clusterray-doctor-") as folder:
        povray = PovrayWatch(found.povray, Path(folder), sandbox).povray_class()
    found.povray_version, found.povray_build = povray.version, povray.build


def _free_bytes(work: Path) -> int:
    """Give what is free on the disk where ``work`` is, or is to be."""
    place = next(path for path in (work, *work.parents) if path.exists())
    free = os.statvfs(place)
    return free.f_bavail * free.f_frsize
