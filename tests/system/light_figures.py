"""Measures pictures of a farm of unlike nodes, whose bands share light, against plain POV-Ray's.

    python -m tests.system.light_figures radiosity|radiosity-full|photons [SCENE ...]

The tables of docs/light.md.

What is compared: four plain runs among each other (they differ too), the farm's picture, one plain
run with the farm's own light, and bands that each make their own light, joined.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations, cycle
from pathlib import Path
from statistics import median

from PIL import Image

from clusterray.povray.command import add_light_footer
from clusterray.povray.light_file import count_photons
from clusterray.povray.photons import load_photons
from clusterray.povray.scene import plan_job
from tests.system.harness import Farm, differing_pixels, farm_of, plain_povray
from tests.system.seams import largest_difference, mean_difference, seam

EXAMPLES = Path("/usr/share/doc/povray/examples")


BANDS = 10
"""As many as the farm is asked for."""


@dataclass(frozen=True)
class Sample:
    """A scene to measure: ``added`` stands behind it, ``changed`` is another text for some of it.

    Most pictures are narrow and tall: the more cuts, the less chance there is in the mean step.
    """

    path: str
    size: tuple[int, int] = (64, 640)
    added: str = ""
    changed: tuple[str, str] = ("", "")
    note: str = ""

    @property
    def title(self) -> str:
        """How a table names it."""
        wide, high = self.size
        size = "" if self.size == (64, 640) else f" {wide}x{high}"
        return f"{Path(self.path).name}{size}{self.note}"


ALWAYS_SAMPLE = "\nglobal_settings { radiosity { always_sample on } }\n"
RADIOSITY = [
    Sample("radiosity/cornell.pov"),
    Sample("radiosity/radiosity2.pov"),
    Sample("radiosity/radiosity3.pov"),
    Sample("radiosity/rad_def_test_37.pov"),
    Sample("radiosity/radiosity_37.pov"),
    Sample("radiosity/patio-radio_37.pov"),
]
ALWAYS = [
    replace(sample, added=ALWAYS_SAMPLE, note=", always_sample on") for sample in RADIOSITY[:3]
]
MANY_PHOTONS = ("#declare Type = 3;", "#declare Type = 4;")
"""As glass.pov itself says: "use '4' for photons"."""
PHOTONS = [
    Sample("lights/glassthing.pov", (96, 480)),
    Sample("lights/phot_met_glass.pov", (96, 480)),
    Sample("advanced/grenadine/grenadine.pov", (96, 480)),
    Sample("advanced/optics.pov", (160, 160)),
    Sample("advanced/balcony/balcony.pov", (64, 320)),
    Sample("advanced/benchmark/benchmark.pov", (64, 320)),
    Sample("incdemo/glasses/glass.pov", (32, 160), changed=MANY_PHOTONS),
    Sample("lights/phot_met_glass.pov", (640, 480)),
    Sample("advanced/grenadine/grenadine.pov", (640, 480)),
]


@dataclass
class Figures:
    """What was measured of one scene."""

    photons: int
    samples: int
    """Of the radiosity cache."""
    gathers: int
    """Samples that the bands added."""
    cuts: list[int]
    """The rows at which bands of light or of the picture meet."""
    against_same_light: int
    """Pixels that differ from one plain run with the same light."""
    against_same_largest: int
    """The largest of those differences."""
    plain_seams: list[float]
    """Of plain runs among each other."""
    seam: float
    """Median of the farm's picture against the plain runs."""
    naive_seam: float
    plain_means: list[float]
    """Mean differences of plain runs from each other, those of two +WT2 runs first."""
    mean: float
    """Median of the mean differences of the farm's picture from the plain runs."""


def measure(farm: Farm, sample: Sample, folder: Path) -> Figures:
    """Render the scene in all the ways and compare; everything is left in ``folder``."""
    size, options = sample.size, [f"+W{sample.size[0]}", f"+H{sample.size[1]}"]
    scene = copied(sample, folder)
    farm.wait_until(["nodes"], lambda nodes: idle(nodes, len(farm.nodes)), "idle nodes")
    ours = folder / "farm.png"
    # Many cuts, along rows: the farm alone would make few, and some of them down columns.
    (scene.parent / "job.yaml").write_text(f"scene: {scene.name}\nbands: {BANDS}\n", "utf-8")
    submit = farm.submit(scene.parent, "-o", str(ours), "--", *options, cwd=folder)
    assert submit.wait(1200) == 0, submit.err.seen[-20:]
    detail = farm.ask("show", farm.ask("jobs")[0]["id"])
    told = Told(detail["light"])
    threads = (2, 2, 1, 3)
    names = [folder / f"plain{number}.png" for number in range(len(threads))]
    plain = [
        _plain(scene, path, options, count) for path, count in zip(names, threads, strict=True)
    ]
    naive = _naive_bands(scene, folder, options, size, (1, 2, 3) if told.photons else (1,))
    cuts = sorted({band["rect"][1] for band in detail["bands"]} - {0})
    same = _with_light(farm, scene, folder, size, told)
    return Figures(
        photons=told.photons,
        samples=told.samples,
        gathers=told.gathers,
        cuts=cuts,
        against_same_light=differing_pixels(ours, same),
        against_same_largest=largest_difference(ours, same),
        plain_seams=sorted(seam(one, other, cuts) for one, other in combinations(plain, 2)),
        seam=median(seam(ours, each, cuts) for each in plain),
        naive_seam=median(seam(naive, each, cuts) for each in plain),
        plain_means=[mean_difference(one, other) for one, other in combinations(plain, 2)],
        mean=median(mean_difference(ours, each) for each in plain),
    )


def copied(sample: Sample, folder: Path) -> Path:
    """Copy a scene's folder and change it as the sample says; gives the copy of its file."""
    source = EXAMPLES / sample.path
    scene = folder / "scene"
    shutil.copytree(source.parent, scene)
    main = scene / source.name
    main.chmod(0o644)
    text, (old, new) = main.read_text("latin-1"), sample.changed
    assert old in text, sample
    changed = text.replace(old, new) if old else text
    main.write_text(changed + sample.added, "latin-1")
    return main


def idle(nodes: Sequence[dict[str, str]], count: int) -> bool:
    """Tell whether so many nodes are there and have nothing to do."""
    return [node["state"] for node in nodes] == ["idle"] * count


class Told:
    """What ``show`` tells of a job's light, in words."""

    def __init__(self, light: str) -> None:
        self.photons = self._number(r"(\d+) photons, shot once", light)
        self.samples = self._number(r"(\d+) radiosity samples from", light)
        self.gathers = self._number(r"(\d+) more were gathered", light)
        self.pixels = self._number(r"at most (\d+) of", light)
        assert self.photons or self.samples, light

    @staticmethod
    def _number(pattern: str, light: str) -> int:
        found = re.search(pattern, light)
        return int(found[1]) if found else 0


def _plain(scene: Path, output: Path, options: list[str], threads: int, *more: str) -> Path:
    words = [f"+I{scene.name}", "+FN8", *options, f"+WT{threads}", *more]
    return plain_povray(scene.parent, output, *words)


def _naive_bands(
    scene: Path, folder: Path, options: list[str], size: tuple[int, int], threads: Sequence[int]
) -> Path:
    """Render bands of 32 rows, with so many threads in turn, each with light of its own."""
    joined = Image.new("RGB", size)
    for top, count in zip(range(0, size[1], 32), cycle(threads), strict=False):
        rows = (f"+SR{top + 1}", f"+ER{min(top + 32, size[1])}")
        band = _plain(scene, folder / "band.png", options, count, *rows)
        box = (0, top, size[0], min(top + 32, size[1]))
        with Image.open(band) as picture:
            joined.paste(picture.convert("RGB").crop(box), box)
    joined.save(folder / "naive.png")
    return folder / "naive.png"


def _with_light(farm: Farm, scene: Path, folder: Path, size: tuple[int, int], told: Told) -> Path:
    """Render the whole frame in one plain run with the light that the nodes used last."""
    width, height = size
    plan = plan_job(scene, [], width=width, height=height, region=None, home=folder / "nobody")
    copy = folder / "copy"
    shutil.copytree(scene.parent, copy)
    words: list[str] = []
    if told.photons:
        shutil.copyfile(newest_light(farm, photons=True), copy / "light.map")
        load_photons(copy, plan.spec, copy / "light.map")
    if told.samples:
        shutil.copyfile(newest_light(farm, photons=False), copy / "light.rca")
        add_light_footer(copy, plan.spec)
        words = ["+RFI", "+RFlight.rca"]
    options = [f"+W{width}", f"+H{height}"]
    return _plain(copy / scene.name, folder / "same.png", options, 2, *words)


def newest_light(farm: Farm, *, photons: bool) -> Path:
    """Give the photon map, or else the radiosity samples, that a node fetched last."""
    kept = sorted(farm.folder.glob("node-*/light/*.light"), key=lambda path: path.stat().st_mtime)
    return [path for path in kept if (count_photons(path) is not None) is photons][-1]


@contextmanager
def unlike_nodes() -> Iterator[tuple[Farm, Path]]:
    """Give a farm of nodes with 1, 2 and 3 threads, and a folder to work in."""
    with tempfile.TemporaryDirectory() as name, farm_of(Path(name) / "farm", 1, 2, 3) as farm:
        yield farm, Path(name)


FULL = [replace(sample, size=(640, 480)) for sample in RADIOSITY]
TABLES = {"radiosity": [*RADIOSITY, *ALWAYS], "radiosity-full": FULL, "photons": PHOTONS}


def _main(table: str, scenes: Sequence[str]) -> None:
    wanted = [
        sample
        for sample in TABLES[table]
        if not scenes or any(scene in sample.path for scene in scenes)
    ]
    with unlike_nodes() as (farm, name):
        for number, sample in enumerate(wanted):
            folder = name / str(number)
            folder.mkdir()
            sys.stdout.write(_row(sample.title, measure(farm, sample, folder)))
            sys.stdout.flush()


def _row(title: str, f: Figures) -> str:
    cells = [
        title,
        f.photons or "",
        f.samples or "",
        f.gathers if f.samples else "",
        len(f.cuts),
        f"{f.against_same_light} ({f.against_same_largest})",
        f"{f.plain_seams[0]:.1f}-{f.plain_seams[-1]:.1f}",
        f"{f.seam:.1f}",
        f"{f.naive_seam:.1f}",
        f"{f.plain_means[0]:.2f}",
        f"{f.mean:.2f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |\n"


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
