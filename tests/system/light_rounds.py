"""Measures what is left to gather after a light pass, and what further rounds would give.

    python -m tests.system.light_rounds [+A0.3] [SCENE ...]     # prints tables of docs/light.md

Light of three bands; then the picture in one run and in bands of 32 rows, with the samples as
POV-Ray wrote them, seated, and after one more round that renders at a part of the resolution with
what there is and has the samples it adds joined. Options of POV-Ray's are for the pictures alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image

from clusterray.core.model import Rect
from clusterray.node.folders import AttemptFolder
from clusterray.node.light_pass import LightRender
from clusterray.node.scene_cache import link_tree
from clusterray.povray.command import add_light_footer
from clusterray.povray.light_file import seat_samples
from clusterray.povray.spec import RenderSpec
from tests.node.doubles import open_field
from tests.system.harness import differing_pixels
from tests.system.light_figures import EXAMPLES, RADIOSITY
from tests.system.seams import largest_difference

SIZE = (128, 160)
CUTS = (0, 32, 96, 160)
PARTS = (4, 2, 1)
_GATHERS = re.compile(r"Radiosity \(final\) calculated:\s+(\d+)")


@dataclass(frozen=True)
class Outcome:
    """What a picture with some light gathers, and how far it depends on the cut."""

    gathers: int
    pixels: int
    largest: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.gathers}; {self.pixels} ({self.largest})"


class Bench:
    """One scene, rendered in a folder of its own."""

    def __init__(self, scene: Path, folder: Path, options: Sequence[str]) -> None:
        self.name = scene.name
        self._options = options
        self._folder = folder
        self._scene = folder / "scene"
        shutil.copytree(scene.parent, self._scene)
        for part in (1, *PARTS):
            self._with_footer(part)

    def _with_footer(self, part: int) -> Path:
        place = self._folder / f"part-{part}"
        if not place.exists():
            shutil.copytree(self._scene, place)
            (place / self.name).chmod(0o644)
            width, height = (side // part for side in SIZE)
            add_light_footer(place, RenderSpec(input=self.name, width=width, height=height))
        return place

    def light(self) -> tuple[bytes, float]:
        """Gather the light of three bands; gives the samples and the seconds it took."""
        spec = RenderSpec(input=self.name, width=SIZE[0], height=SIZE[1])
        began_at = time.monotonic()
        samples = b""
        for top, bottom in pairwise(CUTS):
            attempt = AttemptFolder(self._folder / f"light-{top}")
            attempt.create()
            link_tree(self._scene, attempt.scene)
            LightRender(
                povray=shutil.which("povray") or "povray",
                sandbox=open_field(),
                threads=2,
                spec=spec,
                rect=Rect(0, top, SIZE[0], bottom),
                folder=attempt,
                on_progress=lambda _phase, _done, _total: None,
            ).run()
            samples += attempt.made_light.read_bytes()
        return samples, time.monotonic() - began_at

    def seated(self, samples: bytes) -> bytes:
        """Give the samples seated."""
        place = self._folder / "seated.rca"
        place.write_bytes(samples)
        seat_samples(place)
        return place.read_bytes()

    def round(self, light: bytes, part: int) -> tuple[bytes, float]:
        """Render three bands at a part of the size; gives what they added, seated, and seconds."""
        added, spent = b"", 0.0
        for top, bottom in pairwise(CUTS):
            rows = (f"+SR{top // part + 1}", f"+ER{bottom // part}")
            _, seconds = self._povray(light, part, "-F", "+WT2", "+RFO", *rows)
            spent += seconds
            added += (self._with_footer(part) / "light.rca").read_bytes()[len(light) :]
        return self.seated(added), spent

    def picture(self, light: bytes) -> Outcome:
        """Render in one run and in bands, and compare."""
        whole, bands = self._folder / "whole.png", self._folder / "bands.png"
        _, seconds = self._povray(light, 1, f"+O{whole}", "+WT1", *self._options)
        joined = Image.new("RGB", SIZE)
        gathers = 0
        for top in range(0, SIZE[1], 32):
            band = self._folder / "band.png"
            rows = (f"+SR{top + 1}", f"+ER{top + 32}")
            found, _ = self._povray(light, 1, f"+O{band}", "+WT1", *rows, *self._options)
            gathers += found
            box = (0, top, SIZE[0], top + 32)
            with Image.open(band) as picture:
                joined.paste(picture.convert("RGB").crop(box), box)
        joined.save(bands)
        with Image.open(whole) as picture:
            picture.convert("RGB").save(whole)
        differing = differing_pixels(whole, bands)
        return Outcome(gathers, differing, largest_difference(whole, bands), seconds)

    def _povray(self, light: bytes, part: int, *words: str) -> tuple[int, float]:
        place = self._with_footer(part)
        (place / "light.rca").write_bytes(light)
        argv = ["povray", "-D", "-P", f"+I{self.name}", "+FN8", "-A", "+RFI", "+RFlight.rca"]
        argv += [f"+W{SIZE[0] // part}", f"+H{SIZE[1] // part}", *words]
        began_at = time.monotonic()
        done = subprocess.run(argv, cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found = _GATHERS.search(done.stderr)
        return int(found[1]) if found else 0, time.monotonic() - began_at


def _main(words: Sequence[str]) -> None:
    scenes = [word for word in words if not word.startswith("+")]
    options = [word for word in words if word.startswith("+")]
    for sample in RADIOSITY:
        if scenes and not any(scene in sample.path for scene in scenes):
            continue
        with tempfile.TemporaryDirectory() as name:
            bench = Bench(EXAMPLES / sample.path, Path(name), options)
            written, light_s = bench.light()
            light = bench.seated(written)
            cells = [bench.name, len(written.splitlines()), bench.picture(written)]
            picture = bench.picture(light)
            cells.append(picture)
            seconds = [f"{light_s:.1f}", f"{picture.seconds:.1f}"]
            for part in PARTS:
                added, spent = bench.round(light, part)
                cells.append(bench.picture(light + added))
                seconds.append(f"{spent:.1f}")
            sys.stdout.write(f"| {' | '.join(map(str, [*cells, *seconds]))} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    _main(sys.argv[1:])
