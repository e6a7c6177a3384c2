"""A node's settings as one frozen value; where each came from is the command's business."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Everything a node can be told. ``join`` is a token or a file that holds one, "" to seek it.

    ``threads`` 0 means as many as this process may use cores. ``povray`` is the program's path or
    name. ``drain_s`` bounds how long SIGTERM waits for the running band; ``scene_cache_bytes``
    bounds the scenes kept between jobs, least recently used first. With less than
    ``least_free_bytes`` free on its disk the node takes no bands. ``canary`` False leaves POV-Ray
    untested.
    """

    work: Path
    join: str = ""
    name: str = ""
    threads: int = 0
    povray: str = "povray"
    drain_s: float = 60.0
    scene_cache_bytes: int = 10 << 30
    least_free_bytes: int = 100 << 20
    canary: bool = True
