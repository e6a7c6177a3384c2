from __future__ import annotations

from pathlib import Path

import pytest

from clusterray.core.errors import SceneFault, UsageFault
from clusterray.core.model import Rect
from clusterray.povray.job_file import ANTIALIAS_KEYS, FORMATS, KEYS, PARAM_KEYS
from clusterray.povray.option_table import markdown_table
from clusterray.povray.scene import JobPlan, plan_job

DOCS = Path(__file__).parents[2] / "docs" / "job.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "scene"
    folder.mkdir()
    (folder / "room.pov").touch()
    (folder / "other.pov").touch()
    return folder.resolve()


def plan(folder: Path, *options: str, region: Rect | None = None) -> JobPlan:
    home = folder.parent / "home"
    return plan_job(folder, options, width=None, height=None, region=region, home=home)


def write(folder: Path, text: str, name: str = "job.yaml") -> None:
    (folder / name).write_text(text, encoding="utf-8")


def sources(found: JobPlan) -> dict[str, str]:
    return {name: source for name, _value, source in found.spec.settings()}


def test_every_key(folder: Path) -> None:
    write(
        folder,
        """\
# a comment
scene: room.pov
width: 320
height: 240
output: shot.png
format: png
antialias:
  threshold: 0.2
  method: 2
  depth: 4
  jitter: 0.5
quality: 9
options:
  - Declare=x=1
  - "+BS16"
priority: 7
bands: 12
title: "My room: a test"
mix: close
verify: 3
""",
    )
    found = plan(folder)
    assert (found.output_name, found.title) == ("shot.png", "My room: a test")
    assert (found.priority, found.bands, found.mix, found.verify) == (7, 12, "close", 3)
    assert (found.spec.input, found.spec.width, found.spec.height) == ("room.pov", 320, 240)
    assert found.spec.options == (
        ("Antialias", True),
        ("Antialias_Threshold", 0.2),
        ("Antialias_Depth", 4),
        ("Sampling_Method", 2),
        ("Jitter", True),
        ("Jitter_Amount", 0.5),
        ("Render_Block_Size", 16),
        ("Quality", 9),
        ("Bounding_Threshold", 3),
        ("Declare", "x=1"),
    )
    where = sources(found)
    assert where["Input_File_Name"] == "job.yaml line 2"
    assert where["Width"] == "job.yaml line 3"
    assert where["Antialias_Threshold"] == "job.yaml line 8"
    assert where["Declare x"] == "job.yaml line 14"
    assert where["Render_Block_Size"] == "job.yaml line 15"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("antialias: false", {"Antialias": False}),
        ("antialias: true", {"Antialias": True}),
        ("antialias: 0.1", {"Antialias": True, "Antialias_Threshold": 0.1}),
        ("antialias: {jitter: false}", {"Antialias": True, "Jitter": False}),
        ("antialias: {}", {"Antialias": True}),
        ("options: -J +Q5", {"Jitter": False, "Quality": 5}),
        ("options: ['+K0.5']", {"Clock": 0.5}),
        ("options:", {}),
        ("", {}),
        ("# nothing\n", {}),
    ],
)
def test_values(folder: Path, text: str, expected: dict[str, object]) -> None:
    (folder / "other.pov").unlink()
    write(folder, text)
    options = dict(plan(folder).spec.options)
    del options["Bounding_Threshold"]
    assert options == expected


def test_grey_is_a_format_of_16_bits(folder: Path) -> None:
    write(folder, "scene: room.pov\nformat: png-grey\n")
    spec = plan(folder).spec
    assert (spec.grey, spec.bits) == (True, 16)


@pytest.mark.parametrize("word", FORMATS)
def test_every_format_has_its_extension(folder: Path, word: str) -> None:
    write(folder, f"scene: room.pov\nformat: {word}\noptions: +UA\n")
    extension = {"pgm": "ppm", "jpeg": "jpg"}.get(word, word[:3])
    found = plan(folder)
    assert found.output_name == f"room.{extension}"
    assert found.spec.extension == extension


def test_the_outputs_name_chooses_the_format_where_nothing_else_does(folder: Path) -> None:
    write(folder, "scene: room.pov\noutput: shot.exr\n")
    assert (plan(folder).spec.file_type, plan(folder).output_name) == ("E", "shot.exr")
    assert plan(folder, "+FH").output_name == "shot.hdr"


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("scene: room.pov\nwidht: 5", 2, "unknown key widht; did you mean width?"),
        ("xyzzy: 5", 1, "unknown key xyzzy; the keys are scene, width"),
        ("antialias:\n  treshold: 1", 2, "did you mean threshold"),
        ("width: 5\nwidth: 6", 2, "width is given twice"),
        ("width: wide", 1, "width must be a whole number, not wide"),
        ("width: true", 1, "width must be a whole number"),
        ("width: 0", 1, "between 1 and 1000000"),
        ("width: 1.5", 1, "whole number"),
        ("\n\nheight: -3", 3, "between 1 and 1000000"),
        ("quality: 12", 1, "between 0 and 11"),
        ("output: a/b.png", 1, "only a file name.*-o"),
        ("format: png\noutput: b.jpg", 2, "output: b.jpg: the picture is a .png"),
        ("output: 5", 1, "output must be a text"),
        ("format: gif", 1, "there are png, png16, "),
        ("antialias: [1]", 1, "antialias must be"),
        ("antialias: -1", 1, "between 0 and 1000"),
        ("antialias: {method: 4}", 1, "between 1 and 3"),
        ("options: 5", 1, "options must be a text or a list of texts"),
        ("options:\n  - +Q5\n  - 7", 3, "options must be texts"),
        ("options:\n  - +Q5\n  - +SR3", 3, "--region"),
        ("options: +Z", 1, "is not a switch"),
        ("priority: 101", 1, "between -100 and 100"),
        ("mix: some", 1, "mix must be never, close or any, not some"),
        ("mix: true", 1, "mix must be a text"),
        ("verify: some", 1, "verify must be all or from 0 to 100000, not some"),
        ("verify: true", 1, "verify must be all or from 0 to 100000, not True"),
        ("verify: -1", 1, "verify must be all or from 0 to 100000, not -1"),
        ("bands: 0", 1, "between 1 and 100000"),
        ("title: |\n  two\n  lines", 1, "one line"),
        ("scene: none.pov", 1, "there is no scene none.pov"),
        ("scene: ../x.pov", 1, "there is no scene"),
        ("scene: none.ini", 1, "there is no file none.ini"),
        ("- a\n- b", 1, "lines of key: value"),
        ("just text", 1, "lines of key: value"),
        ("width: [1", None, "not YAML"),
        ("a: b: c", 1, "not YAML"),
        ("width: !!python/object/apply:os.system [id]", None, "not YAML|could not determine"),
        ("? [a, b]\n: 5", 1, "unknown key"),
    ],
)
def test_faults_name_file_and_line(
    folder: Path, text: str, line: int | None, sentence: str
) -> None:
    (folder / "other.pov").unlink()
    write(folder, text)
    with pytest.raises(SceneFault, match=sentence) as caught:
        plan(folder)
    assert caught.value.file == "job.yaml"
    if line is not None:
        assert caught.value.line == line


def test_a_bottomless_yaml_is_a_fault_not_a_crash(folder: Path) -> None:
    write(folder, "title: " + "[" * 5_000)
    with pytest.raises(SceneFault, match="not YAML"):
        plan(folder)


def test_a_yaml_that_stands_for_more_than_memory_holds(folder: Path) -> None:
    lines = ["a: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 30)]
    bomb = "title: x\nwidth:\n" + "\n".join(f"  {line}" for line in lines)
    write(folder, bomb)
    with pytest.raises(SceneFault, match="width must be a whole number"):
        plan(folder)


def test_an_ini_as_scene_is_weaker_than_the_other_keys(folder: Path) -> None:
    write(folder, "scene: scene.ini[low]\nwidth: 11\n")
    write(
        folder,
        "Input_File_Name=other.pov\nWidth=5\nHeight=6\n[low]\nHeight=7\n+Q4\n",
        "scene.ini",
    )
    found = plan(folder, "+Q3")
    assert (found.spec.input, found.spec.width, found.spec.height) == ("other.pov", 11, 7)
    assert found.spec.value("Quality") == 3
    assert sources(found)["Height"] == "scene.ini line 5"


def test_switches_beat_the_job_file_and_the_size_switches_beat_all(folder: Path) -> None:
    write(folder, "scene: room.pov\nwidth: 11\nheight: 12\n")
    found = plan_job(
        folder, ["+W20", "+H21"], width=30, height=None, region=None, home=folder.parent / "home"
    )
    assert (found.spec.width, found.spec.height) == (30, 21)
    assert sources(found)["Width"] == "--width"
    assert sources(found)["Height"] == "command line"


def test_the_region_is_kept_and_must_lie_inside(folder: Path) -> None:
    write(folder, "scene: room.pov\nwidth: 20\nheight: 10\n")
    assert plan(folder, region=Rect(1, 2, 20, 10)).spec.region == Rect(1, 2, 20, 10)
    with pytest.raises(UsageFault, match="does not lie inside the picture of 20x10"):
        plan(folder, region=Rect(1, 2, 21, 10))


# -------------------------------------------------------------------- params.cfg of 2010


def test_params_cfg(folder: Path) -> None:
    write(
        folder,
        "inputFile:room.pov\noutputFile:out/shot.png\njobNumber:4\nrenderType:image\n"
        'imageWidth:64\nimageHeight:48\notherParams:+A0.3 Declare=x=1 +L"."\n',
        "params.cfg",
    )
    found = plan(folder)
    assert (found.spec.input, found.output_name, found.bands) == ("room.pov", "shot.png", 4)
    assert (found.spec.width, found.spec.height) == (64, 48)
    assert found.spec.value("Antialias_Threshold") == 0.3
    assert found.spec.library_paths == (".",)
    assert sources(found)["Width"] == "params.cfg line 5"


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("inputFile:room.pov\nimageWith:5", 2, "did you mean imageWidth"),
        ("inputFile", 1, "is not key:value"),
        ("imageWidth:abc", 1, "whole number"),
        ("jobNumber:many", 1, "whole number from 1"),
        ("inputFile:a:b.pov", 1, "there is no scene a:b.pov"),
        ("renderType:movie", 1, "animations come later"),
        ("otherParams:__import__('os')", 1, "neither a POV-Ray option"),
        ("otherParams:+GIx", 1, "writes nothing"),
    ],
)
def test_params_cfg_faults(folder: Path, text: str, line: int, sentence: str) -> None:
    write(folder, text, "params.cfg")
    with pytest.raises(SceneFault, match=sentence) as caught:
        plan(folder)
    assert (caught.value.file, caught.value.line) == ("params.cfg", line)


# -------------------------------------------------------------------- documentation


def test_the_manual_names_every_key() -> None:
    manual = DOCS.read_text(encoding="utf-8")
    for key in (*KEYS, *ANTIALIAS_KEYS, *PARAM_KEYS):
        assert f"`{key}`" in manual, key


def test_the_manual_lists_the_options_as_they_are() -> None:
    assert markdown_table() in DOCS.read_text(encoding="utf-8")


def test_the_manual_s_example_is_a_job(folder: Path) -> None:
    manual = DOCS.read_text(encoding="utf-8")
    example = manual.partition("```yaml\n")[2].partition("```")[0]
    write(folder, example)
    assert plan(folder).title
