"""scripts/conformance without a farm: what it starts, takes for alike, goes on from and prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "conformance"
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from conformance import (  # noqa: E402  (needs the path above)
    Gap,
    Result,
    Settings,
    append_result,
    differing_places,
    farm_message,
    is_alike,
    read_results,
)
from conformance_page import markdown  # noqa: E402
from corpus import EXAMPLES, chance_in, find_scenes, first_frame  # noqa: E402

needs_examples = pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason="povray-examples is not installed: apt install povray-examples"
)
SMALL = Settings(96, 64, 1)


@needs_examples
def test_every_shipped_scene_is_there_once_and_started_by_its_own_ini() -> None:
    scenes = {scene.name: scene for scene in find_scenes()}
    assert len(scenes) == 396
    assert scenes["advanced/abyss.pov"].entry == "abyss.pov"
    assert scenes["portfolio/t_stars.pov"].entry == "t_stars.ini"
    assert scenes["portfolio/t_stars.pov"].writes
    assert sum(scene.entry.endswith(".ini") for scene in scenes.values()) == 39


@needs_examples
def test_a_scene_that_writes_gets_a_copy_and_the_others_their_own_folder(tmp_path: Path) -> None:
    scenes = {scene.name: scene for scene in find_scenes()}
    still = scenes["advanced/abyss.pov"]
    assert still.stage(tmp_path / "one") == still.folder
    writer = scenes["language/fileio/fileio.pov"]
    copy = writer.stage(tmp_path / "two")
    assert copy.is_relative_to(tmp_path)
    assert (copy / "fileio.pov").read_bytes() == (writer.folder / "fileio.pov").read_bytes()


@needs_examples
def test_what_a_scene_draws_lots_for_is_found_also_in_what_it_includes() -> None:
    scenes = {scene.name: scene for scene in find_scenes()}
    assert chance_in(scenes["interior/magglass.pov"]) == ["crand"]
    assert chance_in(scenes["incdemo/texture2.pov"]) == ["crand in textures.inc"]
    assert chance_in(scenes["bsp/Tango.pov"]) == ["area_light with jitter"]
    assert chance_in(scenes["objects/primitiv.pov"]) == []


@pytest.mark.parametrize(
    ("ini", "clock", "last", "delta"),
    [
        ("Initial_Frame=1\nFinal_Frame= 33\n", "+K0", "33", "0.03125"),
        ("Final_Frame=10\nCyclic_Animation=on\n", "+K0", "11", "0.1"),
        ("Final_Frame=4\nInitial_Clock=1\nFinal_Clock=4\n", "+K1", "4", "1"),
        ("+kf0.1666 +kff20 +kc declare=fp=0\n", "+K0", "21", "0.00833"),
    ],
)
def test_the_first_frame_of_a_film_as_a_still(ini: str, clock: str, last: str, delta: str) -> None:
    words = first_frame(ini)
    assert words[:3] == ("+KFI1", "+KFF1", clock)
    assert f"Declare=final_frame={last}" in words
    assert f"Declare=clock_delta={delta}" in words


@pytest.mark.parametrize("ini", ["", "Final_Frame=1\nFinal_Clock=1\n"])
def test_a_still_stays_as_it_is(ini: str) -> None:
    assert first_frame(ini) == ()


def test_alike_is_the_same_words_however_they_are_broken() -> None:
    words = "Parse Error: No matching } in 'sphere',"
    plain = f"File 'x.pov' line 3: {words}\n undeclared found"
    said = f"reading\nclusterray-submit: ../x.pov:3: {words} undeclared found\n"
    assert is_alike(farm_message(said), plain)
    assert not is_alike("Parse Error: something else", plain)
    assert not is_alike("", plain)
    missing = "File 'x.pov' line 8: Possible Parse Error: Cannot find file 'a b.ttf', even after"
    assert is_alike("uses the font a b.ttf, which is nowhere in the folder", missing)
    assert not is_alike("uses the font b.ttf, which is nowhere in the folder", missing)


def test_results_are_gone_on_from_even_after_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    first = Result("a.pov", SMALL, "different", farm=Gap(3, 9), probes={"+WT2": Gap(0, 0)})
    append_result(file, first)
    file.write_bytes(file.read_bytes() + b'{"scene": "b.po')
    second = Result("a.pov", SMALL, "identical", bands=2)
    append_result(file, Result("c.pov", SMALL, "identical"))
    append_result(file, second)
    assert set(read_results(file)) == {("a.pov", SMALL), ("c.pov", SMALL)}
    assert read_results(file)["a.pov", SMALL] == second


def test_places_are_where_the_pictures_differ(tmp_path: Path) -> None:
    one = Image.new("RGB", (8, 4))
    other = one.copy()
    for place in ((5, 1), (2, 3)):
        other.putpixel(place, (0, 0, 1))
    one.save(tmp_path / "one.png")
    other.save(tmp_path / "other.png")
    assert list(differing_places(tmp_path / "one.png", tmp_path / "other.png", 9)) == [
        (5, 1),
        (2, 3),
    ]


def test_the_page_counts_and_names_what_is_not_identical() -> None:
    page = markdown(
        [
            Result("a.pov", SMALL, "identical", bands=2),
            Result("b.pov", SMALL, "different", bands=2, farm=Gap(7, 8), places=((1, 2),)),
            Result("c.pov", SMALL, "within noise", farm=Gap(5, 6), probes={"+WT2": Gap(4, 3)}),
            Result("d.pov", SMALL, "alike", message="Parse Error: a | b"),
        ],
        scenes=5,
        chance={"c.pov": ["crand"]},
    )
    assert "| 96x64 AM1 | 1 | 1 | 1 | 1 | 0 | 4 of 5 | 2 |" in page
    assert "| `b.pov` | 96x64 AM1 | 2 | 7 px, 8 |" in page
    assert "| `c.pov` | 96x64 AM1 | 0 | 5 px, 6 | 4 px, 3 | crand |" in page
    assert "Parse Error: a \\| b" in page
    assert "a.pov" not in page
    assert "Of these 1, the farm is more than 1.5 times as far" in page
    assert "in 1: `c.pov` (96x64 AM1)." in page


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(["--sizes", "96by64"], "is not a size"), (["--aa", "3"], "invalid choice")],
)
def test_wrong_words_are_told(words: list[str], complaint: str) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert complaint in done.stderr
    assert os.access(SCRIPT, os.X_OK)
