"""The example scenes: POV-Ray renders each, in bands as in one piece, and our reader takes each."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from clusterray.povray.scene import files_to_stage, plan_job

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir())


def load(name: str) -> ModuleType:
    """Import a file of scripts/lib, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / "lib" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while they are made.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


compare_pictures = load("compare_pictures")
plain_povray = load("plain_povray")

WIDTH, HEIGHT, CUT = 64, 48, 32


def differing(first: Path, second: Path) -> int:
    pixels = compare_pictures.compare(first, second).pixels
    assert isinstance(pixels, int)
    return pixels


def render(folder: Path, output: Path, *more: str, threads: int = 2) -> str:
    picture = plain_povray.switches(folder, width=WIDTH, height=HEIGHT)
    said = plain_povray.render(folder, output, [*picture, "-A", *more], threads)
    assert isinstance(said, str)
    return said


def test_there_are_as_many_as_the_readme_says() -> None:
    names = {path.name for path in EXAMPLES}
    assert {"showcase", "gallery", "island", "slow"} <= names


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda path: path.name)
def test_povray_renders_it_without_a_warning(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "picture.png"
    said = render(folder, output)
    assert "Warning:" not in said, said
    with Image.open(output) as picture:
        assert picture.size == (WIDTH, HEIGHT)
        levels = picture.convert("L").histogram()
    # A scene without light, or of one flat colour, is a scene that lost its files.
    used = [level for level, count in enumerate(levels) if count]
    assert used[-1] - used[0] > 60


@pytest.mark.parametrize(
    ("name", "started_by", "width", "height"),
    [
        ("showcase", "job.yaml", 960, 540),
        ("gallery", "job.yaml", 800, 500),
        ("island", "island.ini", 800, 450),
        ("slow", "the only .pov", 800, 600),
    ],
)
def test_our_reader_takes_it(
    name: str, started_by: str, width: int, height: int, tmp_path: Path
) -> None:
    folder = ROOT / "examples" / name
    plan = plan_job(folder, [], width=None, height=None, region=None, home=tmp_path)
    assert (plan.spec.width, plan.spec.height) == (width, height)
    source = {option: why for option, _, why in plan.spec.settings()}["Input_File_Name"]
    assert source.startswith(started_by)
    # Shared light would make it one band, and a note would have to say so.
    assert plan.bands is None
    assert plan.notes == []
    staged = files_to_stage(plan, max_bytes=1 << 20, max_files=100)
    assert plan.spec.input in staged


@pytest.mark.parametrize("name", ["showcase", "gallery"])
def test_plain_povray_is_told_what_the_farm_is_told(name: str, tmp_path: Path) -> None:
    folder = ROOT / "examples" / name
    plan = plan_job(folder, [], width=None, height=None, region=None, home=tmp_path)
    farm = {option: value for option, value, _ in plan.spec.settings()}
    assert plain_povray.switches(folder) == [
        f"+I{farm['Input_File_Name']}",
        f"+W{farm['Width']}",
        f"+H{farm['Height']}",
        f"+A{farm['Antialias_Threshold']}",
        f"+AM{farm['Sampling_Method']}",
        f"+R{farm['Antialias_Depth']}",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda path: path.name)
def test_two_bands_make_the_whole(folder: Path, tmp_path: Path) -> None:
    whole, upper, lower = (tmp_path / f"{name}.png" for name in ("whole", "upper", "lower"))
    joined = tmp_path / "joined.png"
    render(folder, whole, threads=1)
    render(folder, upper, f"+ER{CUT}")
    render(folder, lower, f"+SR{CUT + 1}")
    with Image.open(upper) as top, Image.open(lower) as bottom:
        top.paste(bottom.crop((0, CUT, WIDTH, HEIGHT)), (0, CUT))
        top.save(joined)
    assert differing(whole, joined) == 0


@pytest.mark.parametrize("name", ["terrain.png", "dunes.png", "circles.png", "rain.png"])
def test_pictures_that_scenes_read_are_small(name: str) -> None:
    (found,) = (ROOT / "examples").rglob(name)
    assert found.stat().st_size < 100_000


def test_compare_counts_pixels_and_not_channels(tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    picture = Image.new("RGBA", (7, 5), (10, 20, 30, 0))
    picture.save(first)
    picture.putpixel((3, 3), (11, 25, 30, 0))
    picture.putpixel((6, 4), (10, 20, 30, 255))
    picture.save(second)
    found = compare_pictures.compare(first, second)
    assert (found.pixels, found.total, found.largest) == (2, 35, 255)
    assert compare_pictures.compare(first, first).pixels == 0


def test_compare_refuses_pictures_of_another_shape(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.png" for name in "abc")
    Image.new("RGB", (7, 5)).save(first)
    Image.new("RGB", (5, 7)).save(second)
    Image.new("L", (7, 5)).save(third)
    with pytest.raises(ValueError, match="7x5 RGB"):
        compare_pictures.compare(first, second)
    with pytest.raises(ValueError, match="7x5 L"):
        compare_pictures.compare(first, third)


@pytest.mark.parametrize("same", [True, False])
def test_compare_as_a_command(same: bool, tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    Image.new("RGB", (4, 4), (9, 9, 9)).save(first)
    Image.new("RGB", (4, 4), (9, 9, 9) if same else (9, 12, 9)).save(second)
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "lib" / "compare_pictures.py", first, second],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (0 if same else 1)
    wanted = "0 of 16, largest difference: 0" if same else "16 of 16, largest difference: 3"
    assert done.stdout == f"differing pixels: {wanted} of 255\n"
