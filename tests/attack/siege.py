"""A farm under attack: a real head with TLS, real nodes and POV-Ray, and attackers beside them.

While the attackers are at work, jobs are rendered one after the other, and each picture must be
POV-Ray's own. Afterwards the head must have no more threads, descriptors and memory than it had.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tests.system.harness import Farm, differing_pixels, farm_of, plain_povray

ROOT: Final = Path(__file__).resolve().parents[2]

SCENE: Final = """\
#version 3.7;
global_settings { assumed_gamma 1 }
camera { location <0, 1.5, -4> look_at 0 }
light_source { <3, 5, -4> rgb 1 }
plane { y, -1 pigment { checker rgb 0.9 rgb 0.2 } finish { reflection 0.2 } }
isosurface {
  function { x*x + y*y + z*z - 1 + 0.2*sin(30*x)*sin(31*y)*sin(29*z) }
  contained_by { sphere { 0, 1.3 } } max_gradient 60 accuracy 0.0000001
  pigment { rgb <1, 0.5, 0.2> } finish { phong 0.8 }
}
"""
SETTLED_S: Final = 120.0
"""The last strangers are gone by then: FTP gives one 30 s, the page an idle one 30 s."""
JOB_S: Final = 900.0


@dataclass(slots=True)
class Report:
    """What a siege came to; memory is in MiB."""

    sessions: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    jobs: int = 0
    differing: int = 0
    threads: tuple[int, int, int] = (0, 0, 0)
    """Of the head: before, at most during the attack, and after it."""
    descriptors: tuple[int, int, int] = (0, 0, 0)
    memory: tuple[int, int, int] = (0, 0, 0)


class _Watch:
    """The head's threads, descriptors and memory."""

    def __init__(self, pid: int) -> None:
        self._head = psutil.Process(pid)
        self.before = self.look()
        self.most = self.before

    def look(self) -> tuple[int, int, int]:
        with self._head.oneshot():
            memory = self._head.memory_info().rss >> 20
            return self._head.num_threads(), self._head.num_fds(), memory

    def sample(self) -> None:
        now = self.look()
        self.most = (
            max(self.most[0], now[0]),
            max(self.most[1], now[1]),
            max(self.most[2], now[2]),
        )

    def settle(self) -> tuple[int, int, int]:
        """Wait until what the attack left is gone, which the head's clocks decide."""
        give_up_at = time.monotonic() + SETTLED_S
        while time.monotonic() < give_up_at:
            now = self.look()
            if now[0] <= self.before[0] and now[1] <= self.before[1]:
                break
            time.sleep(0.5)
        return self.look()


def besiege(
    folder: Path, sessions: int, addresses: int, *, attackers: int = 2, size: tuple[int, int]
) -> Report:
    """Attack a farm in ``folder`` with so many sessions from so many addresses."""
    scene = folder / "scene"
    scene.mkdir(parents=True)
    (scene / "room.pov").write_text(SCENE, encoding="utf-8")
    # So that both nodes have a part of each picture, the first one too.
    (scene / "job.yaml").write_text("bands: 4\n", encoding="utf-8")
    width, height = size
    options = (f"+W{width}", f"+H{height}", "-A")
    due = plain_povray(scene, folder / "due.png", "+Iroom.pov", *options)
    with farm_of(folder, 1, 1) as farm:
        # The first job opens what a head keeps open from then on.
        report = Report(differing=_render(farm, scene, folder / "first.png", size, due))
        assert farm.head is not None
        watch = _Watch(farm.head.popen.pid)
        begun = time.monotonic()
        with _attackers(farm, sessions, addresses, attackers) as running:
            while any(each.poll() is None for each in running):
                report.jobs += 1
                got = folder / f"under-fire-{report.jobs}.png"
                report.differing += _render(farm, scene, got, size, due, watch)
            report.seconds = time.monotonic() - begun
            for each in running:
                assert each.stdout is not None
                report.sessions.update(json.load(each.stdout))
        after = watch.settle()
        report.threads, report.descriptors, report.memory = zip(
            watch.before, watch.most, after, strict=True
        )
    return report


def _render(
    farm: Farm,
    scene: Path,
    got: Path,
    size: tuple[int, int],
    due: Path,
    watch: _Watch | None = None,
) -> int:
    """Have a job rendered; gives the number of pixels that are not POV-Ray's own."""
    words = ["--width", str(size[0]), "--height", str(size[1]), "-o", str(got), "--", "-A"]
    submit = farm.submit(scene, *words, cwd=farm.folder)
    give_up_at = time.monotonic() + JOB_S
    while submit.popen.poll() is None:
        assert time.monotonic() < give_up_at, "the job does not end"
        if watch is not None:
            watch.sample()
        time.sleep(0.1)
    assert submit.wait() == 0, "the job failed"
    return differing_pixels(got, due)


@contextmanager
def _attackers(
    farm: Farm, sessions: int, addresses: int, count: int
) -> Iterator[list[subprocess.Popen[str]]]:
    ports = [str(farm.ports[name]) for name in ("control", "ftp", "http")]
    numbers = [str(sessions // count), str(addresses)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.attack.attacker", *ports, *numbers, str(seed)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(count)
    ]
    try:
        yield running
    finally:
        for each in running:
            if each.poll() is None:
                each.kill()
            each.wait()
            assert each.stdout is not None
            each.stdout.close()
