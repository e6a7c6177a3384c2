"""A large picture is kept in memory where there is plenty, and its file is no excess where not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from clusterray.povray.pixel_buffer import IN_MEMORY_BYTES, buffer_words, buffer_writes

GIB = 1 << 30
NOTHING = "#version 3.7;\nglobal_settings { assumed_gamma 1.0 }\ncamera { }\n"


@pytest.mark.parametrize(
    ("pixels", "free", "words"),
    [
        (1920 * 1080, 64 * GIB, ()),
        (IN_MEMORY_BYTES // 20, 64 * GIB, ()),
        (3840 * 2160, GIB, ("+MI181",)),
        (3840 * 2160, GIB // 2, ()),
        (16384 * 16384, 16 * GIB, ()),
    ],
    ids=["small", "just small", "large", "little memory", "huge"],
)
def test_a_large_picture_is_in_memory_where_there_is_plenty(
    pixels: int, free: int, words: tuple[str, ...]
) -> None:
    assert buffer_words(pixels, free) == words


@pytest.mark.slow
@pytest.mark.parametrize("block", [8, 32, 64])
def test_what_a_picture_in_a_file_takes_is_within_bounds(block: int, tmp_path: Path) -> None:
    """Held against the kernel's count; in memory nothing is written but blocks and the picture."""
    (tmp_path / "nothing.pov").write_text(NOTHING)
    pixels = 3200 * 2400
    in_file = written(tmp_path, block)
    assert 3 * 20 * pixels < in_file <= buffer_writes(pixels, block)
    assert written(tmp_path, block, *buffer_words(pixels, GIB)) < 3 * 20 * pixels


def written(folder: Path, block: int, *words: str) -> int:
    """Give the bytes that POV-Ray has written when its picture is whole."""
    size = ("+W3200", "+H2400", f"+BS{block}", "-A", "+WT2")
    command = ["povray", "-D", "+Inothing.pov", "+Onothing.png", *size, *words]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        # It has ended and is not waited for yet: what it did is still to be read.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        lines = Path(f"/proc/{process.pid}/io").read_text().splitlines()
    (said,) = [line for line in lines if line.startswith("wchar:")]
    return int(said.split()[1])
