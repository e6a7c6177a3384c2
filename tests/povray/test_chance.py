"""What a scene's text shows of chance, and that POV-Ray draws lots for just that."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from clusterray.core.model import Chance
from clusterray.povray.chance import MAX_FOUND, SHIPPED, find_chance
from clusterray.povray.needs import find_needs
from clusterray.povray.probe import RUNS

POVRAY = shutil.which("povray") or "povray"
EXAMPLES = Path("/usr/share/doc/povray/examples")
INCLUDES = Path("/usr/share/povray-3.7/include")

needs_examples = pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason="povray-examples is not installed: apt install povray-examples"
)


def found_in(folder: Path, **texts: str) -> list[Chance]:
    files = []
    for name, text in texts.items():
        path = folder / f"{name}.inc"
        path.write_text(text)
        files.append((path.name, path))
    return find_chance(files)


def features(folder: Path, text: str) -> list[str]:
    return [each.feature for each in found_in(folder, a=text)]


# ---------------------------------------------------------------- reading


def test_each_thing_is_told_with_its_first_place(tmp_path: Path) -> None:
    text = "// crand\nfinish {\n crand 0.1 }\nfinish { crand 0.2 }\n"
    assert found_in(tmp_path, a=text, b="finish { crand 1 }") == [
        Chance("crand", "a.inc", 3),
        Chance("crand", "b.inc", 1),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("finish { crand 0 }", []),
        ("finish { crand 0.00 ambient 1 }", []),
        ("finish { crand Roughness }", ["crand"]),
        ("finish { crand 0.01*clock }", ["crand"]),
        ('text { ttf "crand.ttf" "crand" 1, 0 }', []),
        ("/* finish { crand 1 } */", []),
        ("texture { T_Stone17 }", ["crand in stones1.inc"]),
        ("texture { T_Stone44 }", []),
        (
            "light_source { 0 rgb 1 area_light x, z, 4, 4 adaptive 1 jitter }",
            [AREA := "area_light with jitter"],
        ),
        ("light_source { 0 rgb 1 area_light x, z, 4, 4 }\ncamera { jitter }", []),
        ("light_source { 0 area_light x, z, 4, 4 #if (Fine) jitter #end }", [AREA]),
        ("light_source { 0 area_light x, z, 4, 4 looks_like { sphere { 0, 1 } } jitter }", [AREA]),
        ("#macro Lamp() area_light x, z, 4, 4 jitter #end", [AREA]),
        ("#macro Lamp() area_light x, z, 4, 4 #end\n#declare A = 1; #local jitter = 1;", []),
        ("rainbow { angle 42 width 5 jitter 0.1 }", ["rainbow with jitter"]),
        ("rainbow { angle 42 width 5 jitter 0 }", []),
        ("media { emission 1 density { spherical } }", []),
        ("media { method 3 emission 1 }", []),
        ("media { method 1 emission 1 }", ["media of method 1"]),
        ("media { emission 1 method 2 }", ["media of method 2"]),
        ("media { method Way }", ["media of method Way"]),
        ("media { emission 1 jitter 0.5 }", ["media with jitter"]),
        ("#version 3.1;\nmedia { emission 1 }", ["media of method 1, as before #version 3.5"]),
        ("#version 3.1;\nmedia { method 3 emission 1 }", []),
        ("finish { subsurface { translucency 0.5 } }", ["subsurface"]),
        ("global_settings { subsurface { samples 50, 50 } }", []),
        ("global_settings { radiosity { count 100 } }", ["radiosity"]),
        ("global_settings { photons { count 100 } }", ["photons"]),
        ("sphere { 0, 1 photons { target } }", []),
    ],
)
def test_words_that_turn_a_thing_on_are_told_from_those_that_do_not(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    assert features(tmp_path, text) == expected


def test_a_version_in_one_file_is_that_of_all(tmp_path: Path) -> None:
    found = found_in(tmp_path, a="#version 3.1;", b="media { emission 1 }")
    assert [each.file for each in found] == ["b.inc"]


def test_there_is_an_end_to_it_and_a_file_that_is_gone_is_empty(tmp_path: Path) -> None:
    many = "".join(f"media {{ method M{number} }}\n" for number in range(2 * MAX_FOUND))
    assert len(found_in(tmp_path, a=many)) == MAX_FOUND
    assert find_chance([("gone.inc", tmp_path / "gone.inc")]) == []


def test_the_textures_of_povrays_own_files_are_those_that_have_crand() -> None:
    if not INCLUDES.is_dir():
        pytest.skip("POV-Ray's include files are not installed: apt install povray-includes")
    for path in sorted(INCLUDES.glob("*.inc")):
        assert _with_crand(path.read_text("latin-1")) == SHIPPED.get(path.name, frozenset()), path


def _with_crand(text: str) -> frozenset[str]:
    """The names that are declared with crand, also by way of others."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
    _, *parts = re.split(r"#\s*declare\s+(\w+)\s*=", text)
    bodies = dict(zip(parts[::2], parts[1::2], strict=True))
    noisy: set[str] = set()
    while True:
        more = {
            name
            for name, body in bodies.items()
            if "crand" in body or noisy & set(re.findall(r"\w+", body))
        }
        if more == noisy:
            return frozenset(noisy)
        noisy = more


@needs_examples
@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        ("interior/magglass.pov", {"crand"}),
        ("incdemo/texture2.pov", {"crand in textures.inc"}),
        ("incdemo/stones/stones2.pov", {"crand in stones2.inc"}),
        ("interior/rainbow1.pov", {"rainbow with jitter"}),
        ("subsurface/subsurface.pov", {"subsurface"}),
        ("advanced/grenadine/grenadine.pov", {"photons"}),
        ("lights/phot_met_glass.pov", {"photons"}),
        ("radiosity/cornell.pov", {"radiosity", "area_light with jitter"}),
        ("camera/mesh_camera/meshcam_persp_demo.pov", {"radiosity", "area_light with jitter"}),
        # They differ in a pixel or two by POV-Ray's memory of shadows, which no word shows.
        ("objects/primitiv.pov", set()),
        ("advanced/biscuit.pov", set()),
        ("advanced/woodbox.pov", set()),
        ("advanced/mediasky.pov", set()),
    ],
)
def test_shipped_scenes_show_what_makes_them_noisy(scene: str, expected: set[str]) -> None:
    """As docs/conformance.md says of those that it names."""
    path = EXAMPLES / scene
    if not path.is_file():
        pytest.skip(f"this version of povray-examples has no {scene}")
    texts = find_needs(path, start=path.parent).texts
    found = find_chance((text.name, text) for text in texts)
    assert {each.feature for each in found} == expected
    lines = {text.name: text.read_text("latin-1").splitlines() for text in texts}
    for each in found:
        words = re.findall(r"\w+", lines[each.file][each.line - 1])
        named = set().union(*SHIPPED.values())
        assert each.feature.split()[0] in words or named & set(words)


# ---------------------------------------------------------------- what POV-Ray makes of it

_PLACE = """
%s
global_settings { assumed_gamma 1 %s }
camera { location <0, 1, -5> look_at 0 }
light_source { <3, 5, -6> rgb 1 %s }
plane { y, -1 pigment { checker rgb 1 rgb 0.3 } }
"""
_BALL = "sphere { 0, 1 pigment { rgb 1 } finish { %s } interior { ior 1.5 } }\n"
_CLOUD = """sphere { 0, 1.2 hollow pigment { rgbt 1 } interior { media { scattering { 1, 0.5 } %s
  density { bozo scale 0.3 color_map { [0 rgb 0] [1 rgb 2] } } } } }
"""
_BOW = """rainbow { angle 60 width 40 distance 10 direction <0, -0.5, 1> jitter %s
  colour_map { [0 rgbt <1, 0, 0, 0.5>] [1 rgbt <0, 0, 1, 0.5>] } }
"""
_NOW, _OLD = "#version 3.7;", "#version 3.1;"
_SSLT = "mm_per_unit 100 subsurface { samples 50, 50 }"


def _scene(things: str, version: str = _NOW, settings: str = "", light: str = "") -> str:
    return _PLACE % (version, settings, light) + things


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        _scene(_BALL % "crand 0.1"),
        _scene(_BALL % "", light="area_light x*3, y*3, 4, 4 jitter"),
        _scene(_BALL % "subsurface { translucency 0.5 }", settings=_SSLT),
        _scene(_CLOUD % "method 1"),
        _scene(_CLOUD % "method 2 samples 3, 20 intervals 3"),
        _scene(_CLOUD % "jitter 0.5"),
        _scene(_CLOUD % "", version=_OLD),
        _scene(_BOW % "0.1"),
        _scene(_BALL % "", light="area_light x*3, y*3, 4, 4"),
        _scene(_BALL % "crand 0"),
        _scene(_CLOUD % ""),
        _scene(_CLOUD % "method 3", version=_OLD),
        _scene(_BOW % "0"),
    ],
)
def test_povray_depends_on_the_order_just_where_the_text_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.pov").write_text(text)
    pictures = []
    for number, run in enumerate(RUNS):
        argv = [POVRAY, "-D", "+Ia.pov", f"+O{number}.png", "+FN8", "+W80", "+H60", "+BS8"]
        argv += [f"+WT{run.threads}", *run.words]
        subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True)
        with Image.open(tmp_path / f"{number}.png") as picture:
            pictures.append(picture.convert("RGB").tobytes())
    assert (pictures[0] != pictures[1]) == bool(features(tmp_path, text))
