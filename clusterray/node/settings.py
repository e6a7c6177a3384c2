"""A node's settings as one frozen value; where each came from is the command's business."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Everything a node can be told. ``join`` is a token or a file that holds one, "" to seek it;
    at the start it may be missing for ``join_wait_s``.

    ``threads`` 0 means as many as this process may use cores. ``povray`` is the program's path or
    name. ``drain_s`` bounds how long SIGTERM waits for the running band; ``scene_cache_bytes``
    bounds the scenes kept between jobs, least recently used first. With less than
    ``least_free_bytes`` free on its disk the node takes no bands. ``canary`` False leaves POV-Ray
    untested. ``overlap`` False has a band begin only when the one before is rendered.

    ``sandbox`` is one of node.sandbox.CHOICES, ``sandbox_reads`` what POV-Ray may read besides its
    own files and the scene. Each POV-Ray may use ``memory_limit_bytes`` (0: nearly all of the
    machine's), write files of ``file_limit_bytes`` beside its picture, and take ``cpu_limit_s`` CPU
    seconds (0: what its threads can in ``wall_limit_s``) and ``wall_limit_s``.
    """

    work: Path
    join: str = ""
    join_wait_s: float = 0.0
    name: str = ""
    threads: int = 0
    povray: str = "povray"
    drain_s: float = 60.0
    scene_cache_bytes: int = 10 << 30
    least_free_bytes: int = 100 << 20
    canary: bool = True
    overlap: bool = True
    sandbox: str = "auto"
    sandbox_reads: tuple[Path, ...] = ()
    memory_limit_bytes: int = 0
    file_limit_bytes: int = 1 << 30
    cpu_limit_s: float = 0.0
    wall_limit_s: float = 172800.0
