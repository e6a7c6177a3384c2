"""A queue of real scenes that is never empty, and what plain POV-Ray makes of each.

Responsible for submitting one scene after another, several at a time, until told that it is enough,
and for holding each picture against plain POV-Ray's. A scene that POV-Ray itself does not repeat is
held to look like it only. Threads of its own submit; the others only read what is found.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from compare_pictures import compare
from corpus import Scene, find_scenes
from PIL import Image, ImageChops, ImageStat
from programs import Programs
from standing_farm import StandingFarm

SCENES = {
    "advanced/abyss.pov": 1.0,
    "advanced/biscuit.pov": 2.0,
    "advanced/chess2.pov": 1.0,
    "advanced/drums2/drums.pov": 1.5,
    "advanced/glasschess/glasschess.pov": 1.0,
    "advanced/isocacti.pov": 1.0,
    "advanced/mediasky.pov": 0.5,
    "advanced/optics.pov": 0.75,
    "advanced/wineglass.pov": 2.0,
    "advanced/blocks/stackerday.pov": 0.5,
}
"""Scenes of Debian's povray-examples, and how much larger or smaller than the rest each is made, so
that all take some seconds: isosurfaces, constructive geometry, blobs, lathes, media, refraction,
photons with one light and one target, radiosity."""
NOISY = frozenset({"advanced/blocks/stackerday.pov"})
"""Radiosity: two plain runs with two threads differ, so it cannot be held to equality."""
LOOKS_ALIKE = 3.0
"""Levels of 255 by which a noisy picture may differ from plain POV-Ray's in the mean of a channel.
A missing band would be some tens."""

EXIT_NO_HEAD = 5
EXIT_CANCELLED = 6
_PLAIN_S = 1200.0
_PLAIN_AT_A_TIME = 2
_CPU = re.compile(r"with (\d+\.\d+) CPU-seconds total")


@dataclass(frozen=True, slots=True)
class Order:
    """A scene at its size, what plain POV-Ray made of it, and the seconds it computed for that."""

    scene: Scene
    options: tuple[str, ...]
    expected: Path
    cpu_s: float

    @property
    def name(self) -> str:
        """The scene's name below the examples."""
        return self.scene.name


@dataclass(frozen=True, slots=True)
class Rendered:
    """A job that ended well, and whose picture is right."""

    order: Order
    job: str
    seconds: float


@dataclass(slots=True)
class RenderQueue:
    """Jobs on ``farm``, ``at_a_time``, each at most ``timeout_s`` long; files go to ``folder``.

    ``join`` is the submitters' token.
    """

    farm: StandingFarm
    join: str
    folder: Path
    orders: Sequence[Order]
    at_a_time: int
    seed: int
    timeout_s: float
    tell: Callable[[str], None]
    rendered: list[Rendered] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    """Jobs that somebody is about to cancel; filled by others."""
    turned_away: int = 0
    """Submits that found no head within their first ten seconds."""
    _enough: threading.Event = field(default_factory=threading.Event)
    _pool: ThreadPoolExecutor | None = None
    _workers: list[Future[None]] = field(default_factory=list)

    def start(self) -> None:
        """Begin to submit."""
        self.folder.mkdir()
        self._pool = ThreadPoolExecutor(self.at_a_time, "queue")
        self._workers = [self._pool.submit(self._work, number) for number in range(self.at_a_time)]

    def finish(self) -> None:
        """Submit no more, and wait for the ends of what is submitted."""
        self._enough.set()
        for worker in self._workers:
            worker.result()

    def give_up(self) -> None:
        """End at once; the submitters have been killed."""
        self._enough.set()
        if self._pool is not None:
            self._pool.shutdown()

    @property
    def has_stopped(self) -> bool:
        """Tell whether a thread of it ended though nobody said that it is enough."""
        return any(worker.done() for worker in self._workers)

    def _work(self, worker: int) -> None:
        rng = random.Random(f"{self.seed} {worker}")
        number = 0
        while True:
            for order in rng.sample(self.orders, len(self.orders)):
                if self._enough.is_set():
                    return
                number += 1
                self._render(order, self.folder / f"{worker}-{number}.png")

    def _render(self, order: Order, picture: Path) -> None:
        began_at = time.monotonic()
        place = order.scene.stage(picture.with_suffix(""))
        submitted = self.farm.submit(
            place / order.scene.entry,
            picture,
            order.options,
            self.timeout_s,
            only_needed=True,
            join=self.join,
        )
        what = f"{order.name}, job {submitted.job or '?'}"
        if submitted.code == EXIT_CANCELLED and submitted.job in self.cancelled:
            deleted = self.farm.control("delete", submitted.job)
            if deleted.code:
                self.wrong.append(f"{what}: {deleted.stderr.decode('utf-8', 'replace').strip()}")
            return
        if submitted.code == EXIT_NO_HEAD and not submitted.job:
            self.turned_away += 1
            return
        if submitted.code:
            said = submitted.said.strip().splitlines()[-6:]
            self.wrong.append(f"{what}: exit code {submitted.code}: {' / '.join(said)}")
            return
        if submitted.code is None:
            if not self.farm.programs.is_over:
                self.wrong.append(f"{what}: not ready after {self.timeout_s:g} s")
            return
        fault = judge(order, picture)
        if fault:
            self.wrong.append(f"{what}: {fault}")
            return
        picture.unlink()
        seconds = time.monotonic() - began_at
        self.rendered.append(Rendered(order, submitted.job, seconds))
        self.tell(f"job {submitted.job} is right: {order.name}, {seconds:.0f} s")


def judge(order: Order, picture: Path) -> str:
    """Say what is wrong with the picture of an order, "" if nothing is."""
    try:
        if order.name in NOISY:
            apart = mean_difference(order.expected, picture)
            far = f"differs from plain povray's by {apart:.1f} levels in the mean"
            return far if apart > LOOKS_ALIKE else ""
        found = compare(order.expected, picture)
    except (OSError, ValueError) as fault:
        return str(fault)
    return f"{found.pixels} pixels differ, by up to {found.largest}" if found.pixels else ""


def mean_difference(first: Path, second: Path) -> float:
    """Give the mean difference, in levels of 255, of the channel in which two pictures of one size
    differ most.
    """
    with Image.open(first) as one, Image.open(second) as other:
        if one.size != other.size:
            raise ValueError(f"{second} is {other.width}x{other.height}, not {one.size}")
        difference = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
    return max(ImageStat.Stat(difference).mean)


def plain_orders(
    folder: Path, size: tuple[int, int], programs: Programs, tell: Callable[[str], None]
) -> list[Order]:
    """Render every scene with plain POV-Ray; raises RuntimeError where it cannot."""
    folder.mkdir()
    scenes = [scene for scene in find_scenes() if scene.name in SCENES]
    with ThreadPoolExecutor(_PLAIN_AT_A_TIME, "plain") as pool:
        futures = [
            pool.submit(_plain_order, scene, folder, size, programs, tell) for scene in scenes
        ]
        try:
            return [future.result() for future in futures]
        except BaseException:
            programs.end_all()
            raise


def _plain_order(
    scene: Scene,
    folder: Path,
    size: tuple[int, int],
    programs: Programs,
    tell: Callable[[str], None],
) -> Order:
    width, height = (max(32, round(side * SCENES[scene.name])) for side in size)
    options = (f"+W{width}", f"+H{height}", "+A0.3", *scene.options)
    name = scene.name.replace("/", "-").removesuffix(".pov")
    expected = folder / f"{name}.png"
    place = scene.stage(folder / name)
    start = [scene.entry] if scene.entry.endswith(".ini") else [f"+I{scene.entry}"]
    command = ["povray", *start, *options, "+FN8", "+WT1", "-D", "-P", f"+O{expected}"]
    ended = programs.run(["nice", "-n", "5", *command], timeout_s=_PLAIN_S, folder=place)
    said = ended.stderr.decode("latin-1")
    if ended.code != 0:
        raise RuntimeError(f"plain povray cannot render {scene.name}: {said[-500:]}")
    cpu_s = sum(map(float, _CPU.findall(said)))
    tell(f"plain povray: {scene.name} at {width}x{height}, {cpu_s:.1f} s")
    return Order(scene, options, expected, cpu_s)
