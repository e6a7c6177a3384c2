"""What a person does without a farm: bands by GNU parallel, joined by ImageMagick.

As a web search tells him: as many bands as he likes, of equal height, each a POV-Ray of one thread.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

NEEDED = ("parallel", "convert")


def check_programs() -> None:
    """Exit in words if what he uses is not there."""
    for name in NEEDED:
        if shutil.which(name) is None:
            sys.exit(f"{name} is missing: apt install parallel imagemagick")


def render_bands(
    scene: Path, picture: Sequence[str], height: int, bands: int, threads: int, output: Path
) -> None:
    """Render ``bands`` bands, ``threads`` at a time, and join them; raises CalledProcessError."""
    edges = [round(height * band / bands) for band in range(bands + 1)]
    folder = output.parent / f"{output.stem}-bands"
    folder.mkdir(exist_ok=True)
    argv = ["parallel", "--will-cite", "-j", str(threads), "--colsep", " "]
    argv += ["povray", *picture, "-D", "-P", "+FN8", "+WT1", "+SR{1}", "+ER{2}"]
    argv += [f"+O{folder}/{{1}}.png", ":::"]
    # POV-Ray takes an end of 1 for all rows: one row alone is written as 1.5.
    rows = list(pairwise(edges))
    ranges = [f"{top + 1} {bottom if bottom > 1 else 1.5}" for top, bottom in rows]
    _run([*argv, *ranges], scene)
    parts: list[str] = []
    for top, bottom in rows:
        parts += ["(", f"{folder}/{top + 1}.png", "-crop", f"x{bottom - top}+0+{top}"]
        parts += ["+repage", ")"]
    _run(["convert", *parts, "-append", str(output)], scene)
    shutil.rmtree(folder)


def _run(argv: Sequence[str], folder: Path) -> None:
    subprocess.run(
        argv,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
