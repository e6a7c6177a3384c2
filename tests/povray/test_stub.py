"""Stubs: what a scene's texts tell for sure, and that POV-Ray makes the same file with them."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from clusterray.core.model import Rect
from clusterray.images.tile import crop_tile
from clusterray.povray.command import environment, prepare_home, render_argv
from clusterray.povray.option_table import Value
from clusterray.povray.spec import RenderSpec, canonical_options
from clusterray.povray.state_file import move_blocks
from clusterray.povray.stub import STUB_NAME, has_own_frame, scene_stub, stub_spec

needs_povray = pytest.mark.skipif(shutil.which("povray") is None, reason="POV-Ray is not installed")
EXAMPLES = Path("/usr/share/doc/povray/examples")
SIDE = 40
LEFT_ALONE = "assumed_gamma not specified, so gamma_correction is turned off"
IMPLIED = "assumed_gamma not specified in this POV-Ray 3.7 or later"

BARE, OLD, NEW = "camera { }\n", "#version 3.6;\ncamera { }\n", "#version 3.7;\ncamera { }\n"


def with_gamma(gamma: str) -> str:
    return f"#version 3.7;\nglobal_settings {{ assumed_gamma {gamma} }}\ncamera {{ }}\n"


def spec_of(
    name: str = "main.pov",
    options: Sequence[tuple[str, Value]] = (),
    letter: str = "N",
    bits: int = 8,
    grey: bool = False,
    alpha: bool = False,
) -> RenderSpec:
    return RenderSpec(
        input=name,
        width=SIDE,
        height=SIDE,
        file_type=letter,
        bits=bits,
        grey=grey,
        alpha=alpha,
        options=canonical_options(list(options)),
    )


def scene(root: Path, main: str, **includes: str) -> Path:
    (root / "main.pov").write_text(main, encoding="latin-1")
    for name, text in includes.items():
        (root / f"{name}.inc").write_text(text, encoding="latin-1")
    return root


SAVING = "#ifndef(T)\n#declare T = version;\n#version 3.5;\n#declare A = 1;\n#version T;\n#end\n"
GAMMA = "global_settings { assumed_gamma 2.2 }\n"

SURE = {
    "the usual": ('#version 3.7; #include "colors.inc"' + GAMMA, with_gamma("2.2")),
    "srgb": ("global_settings{max_trace_level 9 assumed_gamma srgb}", with_gamma("srgb")),
    "a word follows": ("global_settings{assumed_gamma 1 charset utf8}", with_gamma("1.0")),
    "conditions follow": (
        "global_settings{assumed_gamma 2.2 #if (A) photons { count 9 } #end}",
        with_gamma("2.2"),
    ),
    "whatever the version": ("#if (A) #version B; #end " + GAMMA, with_gamma("2.2")),
    "twice the same": (GAMMA + "global_settings{assumed_gamma 2.20}", with_gamma("2.2")),
    "the same either way": (GAMMA + "#if (A) " + GAMMA + "#end", with_gamma("2.2")),
    "in a comment": ("#version 3.7; /* assumed_gamma 3 */ // #version 3.5", NEW),
    "nothing at all": ("light_source { 9, 1 }", BARE),
    "an old version": ("#version 3.1; light_source { 9, 1 }", OLD),
    "the last version": ("#version 3.7; #declare A = 1; #version 3.5;", OLD),
    "its own": ("#version version;", NEW),
    "old scenes of our days": ('#include "colors.inc" #include "textures.inc"', NEW),
    "old ones that say so": ('#version 3.6; #include "colors.inc" #include "woods.inc"', OLD),
    "a version that is put back": ('#version 3.7; #include "saving.inc"', NEW),
    "included twice": ('#version 3.6; #include "saving" #include "saving.inc"', OLD),
    "put back under a condition": ('#version 3.6; #if (A) #include "saving.inc" #end', OLD),
    "one that is left": ('#version 3.7; #include "leaving.inc"', OLD),
    "a gamma from an include": ('#include "gamma.inc"', with_gamma("2.2")),
    "a condition that says the same": ("#version 3.7; #if (A) #version 3.8; #end", NEW),
    "a macro that puts back": ("#version 3.6; #macro M() " + SAVING + " #end M()", OLD),
}
UNSURE = {
    "gamma under a condition": "#version 3.7; #if (A) " + GAMMA + "#end",
    "two of which POV-Ray heeds the first": GAMMA + "global_settings{assumed_gamma 1}",
    "another under a condition": GAMMA + "#if (A) global_settings{assumed_gamma 1} #end",
    "gamma in a macro": "#macro M() " + GAMMA + "#end",
    "an identifier": "#declare G = 2.2; global_settings{assumed_gamma G}",
    "an expression": "global_settings{assumed_gamma 2.2/1.1}",
    "an operator in a macro": "#macro M() * 2 #end global_settings{assumed_gamma 2.2 M()}",
    "an operator under a condition": "global_settings{assumed_gamma 2.2 #if (A) * 2 #end}",
    "an operator behind one": "global_settings{#if (A) assumed_gamma 2.2 #end * 2}",
    "brackets": "global_settings{assumed_gamma (2.2)}",
    "version under a condition": "#version 3.7; #if (A) #version 3.5; #end",
    "version in a macro": "#version 3.7; #macro M() #version 3.5; #end",
    "version in a loop": "#version 3.7; #while (A) #version 3.5; #end",
    "a version of another name": "#declare old = 3.7; #version old;",
    "a version that is reckoned": "#version 3.5 + 0.5;",
    "a patch": "#version unofficial patch 3.7;",
    "first set under a condition": '#if (A) #include "saving.inc" #end',
    "a name that others give": '#version 3.7; #include "saving.inc" #declare T = 3.5;',
    "a name given in silence": '#version 3.7; #include "saving.inc" #include "silent.inc"',
    "put back elsewhere": "#version 3.7; #if (A) #declare T = version; #end #version T;",
    "an include that is not there": '#version 3.7; #include "nowhere.inc"',
    "an include that is put together": '#version 3.7; #include concat("sav", "ing.inc")',
    "text that may be included": '#version 3.7; #write (F, "global_settings{assumed_gamma 2}")',
    "a string that does not end": '#version 3.7; #declare A = "',
    "no number": "global_settings{assumed_gamma 1e999}",
    "from outside the scene": '#version 3.7; #include "/etc/hostname"',
    "ends too soon": "#version 3.7; #end #version 3.5;",
    "does not end": "#version 3.7; #if (A) sphere { 0, 1 }",
    "includes itself": '#version 3.7; #if (A) #include "again.inc" #end',
}
INCLUDES = {
    "saving": SAVING,
    "leaving": "#version 3.5;\n#declare B = 1;\n",
    "gamma": GAMMA,
    "silent": "#local T = 3.5;",
    "again": '#version version;\n#include "again.inc"\n',
}


@pytest.mark.parametrize("case", SURE)
def test_what_the_texts_tell_for_sure(tmp_path: Path, case: str) -> None:
    text, stub = SURE[case]
    assert scene_stub(scene(tmp_path, text, **INCLUDES), spec_of()) == stub


@pytest.mark.parametrize("case", UNSURE)
def test_what_they_do_not_tell_is_parsed(tmp_path: Path, case: str) -> None:
    assert scene_stub(scene(tmp_path, UNSURE[case], **INCLUDES), spec_of()) is None


def test_options_have_their_say(tmp_path: Path) -> None:
    root = scene(tmp_path, "sphere { 0, 1 }", header="#version 3.5;" + GAMMA, **INCLUDES)
    assert scene_stub(root, spec_of(options=[("Version", 3.5)])) == OLD
    assert scene_stub(root, spec_of(options=[("Version", 3.7)])) == NEW
    header = spec_of(options=[("Include_Header", "header.inc"), ("Version", 3.7)])
    assert scene_stub(root, header) == with_gamma("2.2")
    assert stub_spec(header).options == (("Version", 3.7),)
    (root / "main.pov").write_text('#version 3.7; #if (A) #include "saving.inc" #end')
    known = spec_of(options=[("Version", 3.7)])
    assert scene_stub(root, known) == NEW
    (root / "main.pov").write_text('#include "saving.inc"')
    declared = spec_of(options=[("Declare", "T=3.5")])
    assert scene_stub(root, declared) == BARE, "what it guards is not read then"


def test_an_include_is_sought_where_povray_seeks_it(tmp_path: Path) -> None:
    (tmp_path / "deep" / "library").mkdir(parents=True)
    (tmp_path / "deep" / "main.pov").write_text('#version 3.7; #include "gamma.inc"')
    (tmp_path / "deep" / "library" / "gamma.inc").write_text(GAMMA)
    there = RenderSpec("deep/main.pov", 8, 8, start="deep")
    assert scene_stub(tmp_path, there) is None
    there = RenderSpec(
        "deep/main.pov", 8, 8, start="deep", options=(("Library_Path", "deep/library"),)
    )
    assert scene_stub(tmp_path, there) == with_gamma("2.2")
    assert (stub_spec(there).start, stub_spec(there).options) == (".", ())


BOMBS = {
    "strings": '\\"' * 500_000,
    "brackets": "assumed_gamma 1 #if (" * 50_000,
    "ends": "#version 3.7 #if (A) #end " * 50_000,
    "includes": '#include "gamma.inc" ' * 50_000,
    "declares": "#declare T = version; #version T; " * 50_000,
    "depth": "#if (A) " * 50_000 + GAMMA + "#end " * 50_000,
    "doubling": '#include "two.inc" ',
    "huge": "#version 1e999; sphere { 0, 1 }",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("case", BOMBS)
def test_a_scene_that_means_ill_takes_no_long_look(tmp_path: Path, case: str) -> None:
    for number in range(30):
        (tmp_path / f"{number}.inc").write_text(f'#include "{number + 1}.inc" ' * 2)
    (tmp_path / "two.inc").write_text('#include "0.inc" #version version;')
    (tmp_path / "30.inc").write_text(GAMMA)
    scene_stub(scene(tmp_path, BOMBS[case], **INCLUDES), spec_of())


# ---------------------------------------------------------------- held against POV-Ray


class Runs:
    """POV-Ray called as a node calls it, each time in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._count = 0

    def run(
        self, folder: Path, spec: RenderSpec, blocks: Path | None = None, rect: Rect | None = None
    ) -> tuple[Path, str]:
        """Render ``rect``, or all; on from ``blocks`` if there are some.

        Gives the picture and what was said.
        """
        self._count += 1
        own = self._root / f"run {self._count}"
        own.mkdir()
        picture = own / f"tile.{spec.file_format.tile.extension}"
        state = picture.with_suffix(".pov-state")
        if blocks is None:
            state.touch()
        else:
            shutil.copyfile(blocks, state)
        # POV-Ray takes only the other name away at its end.
        os.link(state, own / "blocks")
        prepare_home(own, spec)
        argv = render_argv(
            spec,
            rect or Rect(0, 0, spec.width, spec.height),
            threads=1,
            povray="povray",
            output=picture,
            resume=blocks is not None,
        )
        done = subprocess.run(
            argv,
            cwd=folder,
            env=environment(own),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        said = " ".join(done.stderr.decode("latin-1").split())
        assert done.returncode == 0, said[-2000:]
        return picture, said

    def stub(
        self,
        spec: RenderSpec,
        text: str,
        blocks: Path | None = None,
        size: tuple[int, int] | None = None,
    ) -> tuple[Path, str]:
        folder = self._root / f"stub {self._count}"
        folder.mkdir()
        (folder / STUB_NAME).write_text(text)
        return self.run(folder, stub_spec(spec, size), blocks)


@needs_povray
@pytest.mark.parametrize("case", [name for name, (text, _) in SURE.items() if "3.8" not in text])
def test_povray_comes_to_the_same_as_with_the_scene(tmp_path: Path, case: str) -> None:
    text, stub = SURE[case]
    declares = [("Declare", "A=0"), ("Declare", "B=3.7")]
    grey = "\nbackground { rgb 0.3 }\n"
    root, runs = scene(tmp_path, text + grey, **INCLUDES), Runs(tmp_path)
    picture, said = runs.run(root, spec_of(options=declares))
    stub_picture, stub_said = runs.stub(spec_of(), stub + grey)
    for word in (LEFT_ALONE, IMPLIED):
        assert (word in said) is (word in stub_said), word
    with Image.open(picture) as one, Image.open(stub_picture) as other:
        assert one.getpixel((1, 1)) == other.getpixel((1, 1))


BODY = """
camera { location <0, 1, -4> look_at 0 angle 50 }
light_source { <4, 5, -5> rgb 1 }
background { rgbt <0.1, 0.3, 0.5, 0.4> }
plane { y, -1 pigment { checker rgb <1, 0.1, 0> rgb 1 scale 0.3 } }
sphere { 0, 1 pigment { rgbft <0.1, 0.9, 0.2, 0.3, 0.4> } finish { phong 1 reflection 0.4 } }
"""
SAID = {
    "linear": "#version 3.7;" + GAMMA.replace("2.2", "1"),
    "2.2 of old": "#version 3.5;" + GAMMA,
    "srgb": "#version 3.7;" + GAMMA.replace("2.2", "srgb"),
    "implied": "#version 3.7;",
    "left alone": "#version 3.6; global_settings { hf_gray_16 on }",
    "no version": "",
    "old of our days": '#include "colors.inc"',
}
MADE = {
    "png": spec_of(),
    "png 16": spec_of(bits=16, alpha=True),
    "grey": spec_of(bits=16, grey=True),
    "file gamma": spec_of(options=[("File_Gamma", 1.5)]),
    "dithered": spec_of(options=[("Dither", True), ("Dither_Method", "FS")]),
    "smoothed": spec_of(options=[("Antialias", True), ("Sampling_Method", 2)]),
    "ppm 16": spec_of(letter="P", bits=16),
    "targa": spec_of(letter="T", alpha=True),
    "bmp": spec_of(letter="B", options=[("Version", 3.7)]),
    "exr": spec_of(letter="E", bits=16, alpha=True),
    "hdr": spec_of(letter="H", options=[("Version", 3.5)]),
}


PAIRS = [
    (said, made)
    for row, said in enumerate(SAID)
    for column, made in enumerate(MADE)
    if (row + column) % 4 == 0
]
"""A spread, in which each is several times; all of them take a minute and a half."""


@needs_povray
@pytest.mark.slow
@pytest.mark.parametrize(("said", "made"), PAIRS)
def test_the_file_is_that_of_the_scene(tmp_path: Path, said: str, made: str) -> None:
    assert_same_file(tmp_path, scene(tmp_path, SAID[said] + BODY), MADE[made])


OWN_FRAMES = {
    name: made
    for name, made in MADE.items()
    if name in ("png", "png 16", "grey", "file gamma", "smoothed", "ppm 16", "targa", "bmp")
}


def test_what_has_no_frame_of_its_own_is_known() -> None:
    assert {name for name, spec in MADE.items() if has_own_frame(spec)} == set(OWN_FRAMES)


RECTS = [Rect(0, 0, 75, 32), Rect(0, 64, 75, 70), Rect(32, 32, 64, 64), Rect(64, 0, 65, 1)]
FRAMED = [
    (made, rect)
    for row, made in enumerate(OWN_FRAMES)
    for column, rect in enumerate(RECTS)
    if (row + column) % 3 == 0
]
"""A spread again."""


@needs_povray
@pytest.mark.slow
@pytest.mark.parametrize(("made", "rect"), FRAMED)
def test_a_band_in_a_frame_of_its_own_has_the_same_tile(
    tmp_path: Path, made: str, rect: Rect
) -> None:
    spec = replace(MADE[made], input="main.pov", width=75, height=70)
    root, runs = scene(tmp_path, SAID["linear"] + BODY), Runs(tmp_path)
    stub = scene_stub(root, spec)
    assert stub is not None
    picture, _said = runs.run(root, spec, rect=rect)
    blocks, size = picture.with_name("blocks"), (rect.width, rect.height)
    move_blocks(blocks, -rect.x0, -rect.y0)
    own, said = runs.stub(spec, stub, blocks, size)
    assert not re.search(r"Pixels: [1-9]", said), "nothing is rendered"
    tiles = tmp_path / "of the whole", tmp_path / "of its own"
    kind = spec.file_format
    crop_tile(picture, rect, tiles[0], kind, size=(75, 70))
    crop_tile(own, Rect(0, 0, *size), tiles[1], kind, size=size)
    assert tiles[0].read_bytes() == tiles[1].read_bytes()


SHIPPED = {
    "advanced/chess2.pov": "png",
    "incdemo/woods/cedar.pov": "targa",
    "incdemo/metals/golds.pov": "exr",
    "camera/mesh_camera/meshcam_persp_compare.pov": "ppm 16",
    "gamma/gamma_showcase.pov": "dithered",
    "incdemo/woods/woods1.pov": "bmp",
    "interior/media/galaxy.pov": "hdr",
    "incdemo/woods/teak.pov": "png 16",
    "objects/blob.pov": "grey",
    "textures/patterns/agate.pov": "smoothed",
}


@needs_povray
@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_file_is_that_of_a_shipped_scene(tmp_path: Path, name: str) -> None:
    path = EXAMPLES / name
    if not path.is_file():
        pytest.skip("POV-Ray's example scenes are not installed")
    assert_same_file(tmp_path, path.parent, MADE[SHIPPED[name]], path.name)


def assert_same_file(tmp_path: Path, root: Path, spec: RenderSpec, name: str = "main.pov") -> None:
    spec = RenderSpec(
        name,
        spec.width,
        spec.height,
        file_type=spec.file_type,
        bits=spec.bits,
        grey=spec.grey,
        alpha=spec.alpha,
        options=spec.options,
    )
    stub = scene_stub(root, spec)
    assert stub is not None
    runs = Runs(tmp_path)
    first, _said = runs.run(root, spec)
    blocks = first.with_name("blocks")
    parsed, _said = runs.run(root, spec, blocks)
    unparsed, said = runs.stub(spec, stub, blocks)
    assert not re.search(r"Pixels: [1-9]", said), "nothing is rendered"
    assert timeless(unparsed) == timeless(parsed)


def timeless(picture: Path) -> bytes:
    """Give a file without what tells when it was written."""
    data = picture.read_bytes()
    if picture.suffix == ".png":
        return b"".join(chunk for chunk in chunks(data) if chunk[:4] not in (b"tIME", b"tEXt"))
    if picture.suffix == ".tga":
        return data[: 18 + data[0] + SIDE * SIDE * data[16] // 8]
    return re.sub(rb"\d{4}[:-]\d\d[:-]\d\d.\d\d:\d\d:\d\d", b"", data)


def chunks(png: bytes) -> list[bytes]:
    at, found = 8, []
    while at < len(png):
        (size,) = struct.unpack_from(">I", png, at)
        found.append(png[at + 4 : at + 8 + size])
        at += 12 + size
    return found
