"""Measures radiosity pictures of a farm of unlike nodes against plain POV-Ray's; see docs/light.md.

    python -m tests.system.light_figures [SCENE ...]     # prints the table of that page

What is compared: four plain runs among each other (they differ too), the farm's picture, one plain
run with the farm's own light, and bands that each gather their own light, joined.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median

from PIL import Image

from clusterray.povray.command import add_light_footer
from clusterray.povray.spec import RenderSpec
from tests.system.harness import Farm, differing_pixels, farm_of, plain_povray
from tests.system.seams import largest_difference, mean_difference, seam

EXAMPLES = Path("/usr/share/doc/povray/examples")
SCENES = [
    "radiosity/cornell.pov",
    "radiosity/radiosity2.pov",
    "radiosity/radiosity3.pov",
    "radiosity/rad_def_test_37.pov",
    "radiosity/radiosity_37.pov",
    "radiosity/patio-radio_37.pov",
]
SIZE = (64, 640)
"""Narrow and tall: the more cuts, the less chance there is in the mean step across them."""
ALWAYS_SAMPLE = "\nglobal_settings { radiosity { always_sample on } }\n"


@dataclass
class Figures:
    """What was measured of one scene."""

    samples: int
    """Of the light."""
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


def measure(farm: Farm, scene: Path, folder: Path, size: tuple[int, int] = SIZE) -> Figures:
    """Render ``scene`` in all the ways and compare; everything is left in ``folder``."""
    options = [f"+W{size[0]}", f"+H{size[1]}"]
    farm.wait_until(["nodes"], lambda nodes: _idle(nodes, len(farm.nodes)), "idle nodes")
    ours = folder / "farm.png"
    submit = farm.submit(scene, "-o", str(ours), "--", *options, cwd=folder)
    assert submit.wait(300) == 0, submit.err.seen[-20:]
    detail = farm.ask("show", farm.ask("jobs")[0]["id"])
    samples, gathers = _told(detail["light"])
    threads = (2, 2, 1, 3)
    names = [folder / f"plain{number}.png" for number in range(len(threads))]
    plain = [
        _plain(scene, path, options, count) for path, count in zip(names, threads, strict=True)
    ]
    naive = _naive_bands(scene, folder, options, size)
    cuts = sorted({band["rect"][1] for band in detail["bands"]} - {0})
    same = _with_light(farm, scene, folder, size)
    return Figures(
        samples=samples,
        gathers=gathers,
        cuts=cuts,
        against_same_light=differing_pixels(ours, same),
        against_same_largest=largest_difference(ours, same),
        plain_seams=sorted(seam(one, other, cuts) for one, other in combinations(plain, 2)),
        seam=median(seam(ours, each, cuts) for each in plain),
        naive_seam=median(seam(naive, each, cuts) for each in plain),
        plain_means=[mean_difference(one, other) for one, other in combinations(plain, 2)],
        mean=median(mean_difference(ours, each) for each in plain),
    )


def _idle(nodes: Sequence[dict[str, str]], count: int) -> bool:
    return [node["state"] for node in nodes] == ["idle"] * count


def _told(light: str) -> tuple[int, int]:
    """Give the numbers of samples and gathers from the words of ``show``."""
    words = light.split()
    assert "samples" in words, light
    return int(words[0]), int(words[words.index("more") - 1])


def _plain(scene: Path, output: Path, options: list[str], threads: int, *more: str) -> Path:
    words = [f"+I{scene.name}", "+FN8", *options, f"+WT{threads}", *more]
    return plain_povray(scene.parent, output, *words)


def _naive_bands(scene: Path, folder: Path, options: list[str], size: tuple[int, int]) -> Path:
    joined = Image.new("RGB", size)
    for top in range(0, size[1], 32):
        rows = (f"+SR{top + 1}", f"+ER{min(top + 32, size[1])}")
        band = _plain(scene, folder / "band.png", options, 1, *rows)
        box = (0, top, size[0], min(top + 32, size[1]))
        with Image.open(band) as picture:
            joined.paste(picture.convert("RGB").crop(box), box)
    joined.save(folder / "naive.png")
    return folder / "naive.png"


def _with_light(farm: Farm, scene: Path, folder: Path, size: tuple[int, int]) -> Path:
    """Render the whole frame in one plain run with the light that the nodes used last."""
    kept = farm.folder.glob("node-*/light/*.rca")
    newest = max(kept, key=lambda path: path.stat().st_mtime)
    copy = folder / "copy"
    shutil.copytree(scene.parent, copy)
    shutil.copyfile(newest, copy / "light.rca")
    add_light_footer(copy, RenderSpec(input=scene.name, width=size[0], height=size[1]))
    options = [f"+W{size[0]}", f"+H{size[1]}"]
    return _plain(copy / scene.name, folder / "same.png", options, 2, "+RFI", "+RFlight.rca")


def _main(scenes: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as name, farm_of(Path(name) / "farm", 1, 2, 3) as farm:
        wanted = scenes or SCENES
        for kind, chosen in (("as it is", wanted), ("always_sample on", wanted[:3])):
            for number, scene in enumerate(chosen):
                folder = Path(name) / f"{number}-{kind.replace(' ', '-')}"
                folder.mkdir()
                path = EXAMPLES / scene
                if kind != "as it is":
                    path = folder / "scene" / path.name
                    shutil.copytree((EXAMPLES / scene).parent, path.parent)
                    text = path.read_bytes()
                    path.chmod(0o644)
                    path.write_bytes(text + ALWAYS_SAMPLE.encode())
                figures = measure(farm, path, folder)
                sys.stdout.write(_row(f"{Path(scene).name}, {kind}", figures))
                sys.stdout.flush()


def _row(title: str, f: Figures) -> str:
    plain = f"{f.plain_seams[0]:.1f}-{f.plain_seams[-1]:.1f}"
    cells = [
        title,
        f.samples,
        f.gathers,
        len(f.cuts),
        f"{f.against_same_light} ({f.against_same_largest})",
        plain,
        f"{f.seam:.1f}",
    ]
    cells += [f"{f.naive_seam:.1f}", f"{f.plain_means[0]:.2f}", f"{f.mean:.2f}"]
    return "| " + " | ".join(map(str, cells)) + " |\n"


if __name__ == "__main__":
    _main(sys.argv[1:])
