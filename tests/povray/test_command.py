"""POV-Ray itself, called as a node calls it, against POV-Ray called plainly."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from clusterray.core.errors import LocalFault
from clusterray.core.model import Rect
from clusterray.povray.command import (
    environment,
    light_argv,
    povray_identity,
    prepare_home,
    render_argv,
)
from clusterray.povray.progress import ProgressParser
from clusterray.povray.scene import plan_job
from clusterray.povray.spec import RenderSpec

pytestmark = pytest.mark.skipif(shutil.which("povray") is None, reason="POV-Ray is not installed")

SCENE = """\
#version 3.7;
global_settings { assumed_gamma 1.0 }
#include "colors.inc"
camera { location <0, 1, -4> look_at 0 angle 50 }
light_source { <4, 5, -5> rgb 1 }
plane { y, -1 pigment { checker Red White scale 0.3 } }
sphere { 0, 1 pigment { Green } finish { phong 1 reflection 0.3 } }
"""


class Bench:
    """A scene folder, and the two ways to render it."""

    def __init__(self, root: Path) -> None:
        self.scene = root / "scene"
        self.private = root / "private"
        self.out = root / "out"
        for folder in (self.scene, self.private, self.out):
            folder.mkdir()
        self.put("room.pov", SCENE)

    def put(self, name: str, text: str) -> None:
        (self.scene / name).parent.mkdir(parents=True, exist_ok=True)
        (self.scene / name).write_text(text, encoding="utf-8")

    def plan(self, *options: str, scene: str = "") -> RenderSpec:
        found = plan_job(
            self.scene / scene,
            options,
            width=None,
            height=None,
            region=None,
            home=Path("/nonexistent"),
        )
        return found.spec

    def render(
        self, spec: RenderSpec, rect: Rect | None = None
    ) -> tuple[Image.Image, ProgressParser]:
        rect = rect or Rect(0, 0, spec.width, spec.height)
        output = self.out / "tile of ours.png"
        output.unlink(missing_ok=True)
        prepare_home(self.private, spec)
        argv = render_argv(spec, rect, threads=1, povray="povray", output=output)
        done = subprocess.run(
            argv,
            cwd=self.scene / spec.start,
            env=environment(self.private),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        parser = ProgressParser()
        parser.feed(done.stderr)
        parser.finish()
        assert done.returncode == 0, parser.text_tail[-2000:]
        assert done.stdout == b""
        with Image.open(output) as picture:
            picture.load()
            return picture, parser

    def failure(self, spec: RenderSpec) -> ProgressParser:
        prepare_home(self.private, spec)
        rect = Rect(0, 0, spec.width, spec.height)
        argv = render_argv(spec, rect, threads=1, povray="povray", output=self.out / "x.png")
        done = subprocess.run(
            argv,
            cwd=self.scene / spec.start,
            env=environment(self.private),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 1
        parser = ProgressParser()
        parser.feed(done.stderr)
        parser.finish()
        return parser

    def plain(self, *words: str) -> Callable[[], Image.Image]:
        """Start what a person gets who calls POV-Ray in the folder, with nothing at home.

        Gives how to wait for the picture: both renders sleep most of their time.
        """
        output = self.out / "plain.png"
        output.unlink(missing_ok=True)
        home = self.out / "home"
        home.mkdir(exist_ok=True)
        process = subprocess.Popen(
            ["povray", *words, "-D", "-P", "+WT1", f"+O{output}"],
            cwd=self.scene,
            env={"HOME": str(home), "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def wait() -> Image.Image:
            assert process.wait(60) == 0
            with Image.open(output) as picture:
                picture.load()
                return picture

        return wait


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Image.Image:
    bench = Bench(tmp_path_factory.mktemp("whole"))
    return bench.plain("+Iroom.pov", "+W40", "+H30")()


def same(ours: Image.Image, plain: Image.Image) -> bool:
    return (ours.mode, ours.size, ours.tobytes()) == (plain.mode, plain.size, plain.tobytes())


# -------------------------------------------------------------------- same picture


@pytest.mark.parametrize(
    "words",
    [
        ("+W40", "+H30"),
        ("+W40", "+H30", "+A0.1", "+AM1", "+R3", "-J"),
        ("+W40", "+H30", "+A0.2", "+AM2", "+R2", "+J0.7", "+UA"),
        ("+W40", "+H30", "+Q4", "+THB3", "File_Gamma=1.0", "+BS8", "+A"),
        ("+W40", "+H30", "+FNg"),
        ("+W40", "+H30", "+MV3.5", "+BM2", "-SU", "+UR", "+MB1", "+K0.5"),
        ("+W1", "+H1", "+A0.1"),
        ("+W1", "+H37"),
    ],
    ids=" ".join,
)
def test_the_whole_picture_equals_plain_povray(bench: Bench, words: tuple[str, ...]) -> None:
    plain = bench.plain("+Iroom.pov", *words)
    ours, parser = bench.render(bench.plan(*words))
    assert same(ours, plain())
    assert parser.phase == "rendering"
    assert parser.done == parser.total == ours.size[0] * ours.size[1]


def test_defaults_are_debian_s(bench: Bench) -> None:
    spec = bench.plan()
    plain = bench.plain("+Iroom.pov", "+SR301", "+ER320")
    ours, _parser = bench.render(spec, Rect(0, 300, 800, 320))
    assert same(ours, plain())
    assert (spec.width, spec.height, spec.value("Bounding_Threshold")) == (800, 600, 3)


def test_all_of_debian_s_library_paths_are_there(bench: Bench) -> None:
    bench.put(
        "room.pov",
        SCENE + '#include "include/stones.inc"\ntext { ttf "timrom.ttf" "x" 1, 0 }\n'
        '#fopen F "ini/res640.ini" read #fclose F',
    )
    bench.render(bench.plan("+W4", "+H4"))


@pytest.mark.parametrize(
    "rect",
    [
        Rect(0, 0, 40, 1),
        Rect(0, 1, 40, 2),
        Rect(0, 29, 40, 30),
        Rect(0, 0, 1, 30),
        Rect(0, 0, 1, 1),
        Rect(39, 29, 40, 30),
        Rect(3, 5, 31, 17),
    ],
    ids=str,
)
def test_a_rectangle_is_what_plain_povray_has_there_and_nothing_else(
    bench: Bench, whole: Image.Image, rect: Rect
) -> None:
    spec = bench.plan("+W40", "+H30")
    ours, parser = bench.render(spec, rect)
    expected = Image.new("RGB", whole.size)
    expected.paste(whole.crop(rect.as_tuple()), rect.as_tuple())
    assert same(ours, expected)
    # The trap of +ER1, which means all rows, would show as more pixels here too.
    assert parser.total == rect.area


def test_blocks_of_antialiasing_fit_at_their_multiples(bench: Bench) -> None:
    words = ("+W40", "+H40", "+A0.05", "+AM1", "+R2", "+BS16")
    spec = bench.plan(*words)
    block = spec.picture().block
    assert block == 16
    plain = bench.plain("+Iroom.pov", *words)
    stitched = Image.new("RGB", (40, 40))
    for rect in (Rect(0, 0, 40, block), Rect(0, block, 40, 40)):
        ours, _parser = bench.render(spec, rect)
        stitched.paste(ours.crop(rect.as_tuple()), rect.as_tuple())
    assert same(stitched, plain())


# -------------------------------------------------------------------- what surrounds it


def test_a_povray_ini_beside_the_scene_is_not_read_again(bench: Bench) -> None:
    bench.put("povray.ini", "Width=20\nHeight=10\nAntialias=On\n")
    spec = bench.plan("-A", "+W30")
    assert (spec.width, spec.height) == (30, 10)
    # What the submitter read is all that counts, even if the file says something else by now.
    bench.put("povray.ini", 'Height=99\nOutput_File_Name="../escaped.png"\nQuality=0\n')
    ours, _parser = bench.render(spec)
    assert ours.size == (30, 10)
    (bench.scene / "povray.ini").unlink()
    assert same(ours, bench.plain("+Iroom.pov", "+W30", "+H10")())
    assert not list(bench.scene.parent.glob("escaped*"))


def test_nothing_of_the_node_s_environment_gets_in(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POVINC", "/etc")
    prepare_home(bench.private, bench.plan())
    env = environment(bench.private)
    assert set(env) == {"HOME", "POVINI", "POV_TEMP_DIR", "TMPDIR", "PATH", "LC_ALL"}
    assert list(Path(env["HOME"]).iterdir()) == []
    for name in ("HOME", "POVINI", "POV_TEMP_DIR"):
        assert Path(env[name]).is_relative_to(bench.private)
        assert Path(env[name]).exists()
    prepare_home(bench.private, bench.plan())


def test_declares_includes_headers_and_library_paths(bench: Bench) -> None:
    bench.put("my lib/extra.inc", "#declare Shade = 0.25;\n")
    bench.put("head.inc", "#declare From_Header = 1;\n")
    bench.put(
        "room.pov",
        '#include "extra.inc"\n#ifndef (From_Header) #error "no header" #end\n'
        '#if (strcmp(Word, "a b") != 0) #error "no word" #end\n'
        '#if (abs(Number + 0.5) > 1e-6) #error "no number" #end\n' + SCENE,
    )
    spec = bench.plan(
        "+W8", "+H8", '+L"my lib"', "+HIhead.inc", 'Declare=Word="a b"', "Declare=Number=-.5"
    )
    bench.render(spec)


def test_a_start_folder_of_its_own(bench: Bench) -> None:
    bench.put("sub/scenes/a b.pov", '#include "near.inc"\n#include "far.inc"\n' + SCENE)
    bench.put("sub/near.inc", "")
    bench.put("lib/far.inc", "")
    spec = RenderSpec(
        input="sub/scenes/a b.pov",
        start="sub",
        width=4,
        height=4,
        options=(("Library_Path", "lib"),),
    )
    bench.render(spec)


@pytest.mark.parametrize(
    "name",
    [
        "my room.pov",
        "scène 名.pov",
        "sub é/ö.pov",
        "a;b#c,d.pov",
        "it's.pov",
        'say "x".pov',
        "-A.pov",
    ],
)
def test_scene_files_of_any_name(bench: Bench, name: str) -> None:
    """POV-Ray itself fails on letters beyond ASCII and on quotation marks in options."""
    bench.put(name, SCENE)
    (bench.scene / "room.pov").unlink()
    bench.put("job.yaml", f"scene: '{name.replace(chr(39), 2 * chr(39))}'\n")
    spec = bench.plan("+W6", "+H6")
    assert spec.input == name
    bench.render(spec)


def test_a_fault_in_a_scene_of_any_name_names_it(bench: Bench) -> None:
    bench.put("scène.pov", "\n\nsphere { 0 }\n")
    parser = bench.failure(bench.plan(scene="scène.pov"))
    assert parser.fatal is not None
    assert (parser.fatal.file, parser.fatal.line) == ("scène.pov", 3)


def test_faults_of_a_scene(bench: Bench) -> None:
    bench.put("bad.pov", '#debug "Rendered 5 of 9 pixels (5%)\\n"\nsphere { 0, 1 pigmnt { } }\n')
    parser = bench.failure(bench.plan(scene="bad.pov"))
    assert parser.fatal is not None
    assert (parser.fatal.file, parser.fatal.line) == ("bad.pov", 2)
    assert "pigmnt" in parser.fatal.message
    assert (parser.phase, parser.done) == ("parsing", 0)

    long_name = "a rather long folder name/" + "and_a_file_name_that_is_longer_than_a_line" * 2
    # Behind a condition, or the submitter would find it missing before POV-Ray does.
    bench.put("miss.pov", f'\n#if (1) #include "{long_name}.inc" #end\n')
    parser = bench.failure(bench.plan(scene="miss.pov"))
    assert parser.fatal is not None
    assert (parser.fatal.file, parser.fatal.line) == ("miss.pov", 2)
    assert f"{long_name}.inc" in parser.fatal.message

    image = 'sphere { 0, 1 pigment { image_map { png "nope.png" } } }'
    bench.put("image.pov", f"#if (1) {image} #end\n")
    parser = bench.failure(bench.plan(scene="image.pov"))
    assert parser.fatal is not None
    assert (parser.fatal.file, parser.fatal.line) == ("image.pov", 1)
    assert "nope.png" in parser.fatal.message


def test_work_folders_that_povray_cannot_be_given(bench: Bench, tmp_path: Path) -> None:
    spec = bench.plan()
    with pytest.raises(LocalFault, match="--work"):
        prepare_home(tmp_path / "é", spec)
    with pytest.raises(LocalFault, match="--work"):
        rect = Rect(0, 0, 1, 1)
        render_argv(spec, rect, threads=1, povray="povray", output=tmp_path / 'a"b.png')


# -------------------------------------------------------------------- which POV-Ray


@pytest.mark.parametrize(
    ("rows", "gathered_over"),
    [((0, 32), (0, 40)), ((32, 64), (24, 72)), ((128, 160), (120, 160)), ((0, 160), (0, 160))],
)
def test_light_is_gathered_a_little_beyond_a_band(
    rows: tuple[int, int], gathered_over: tuple[int, int]
) -> None:
    spec = RenderSpec(input="a.pov", width=100, height=160)
    rect = Rect(0, rows[0], 100, rows[1])
    argv = light_argv(spec, rect, threads=1, povray="povray", light=Path("/x/light.rca"))
    assert {f"+SR{gathered_over[0] + 1}", f"+ER{gathered_over[1]}", "+EC100"} <= set(argv)


def test_identity() -> None:
    version, build = povray_identity("povray")
    assert version.startswith("3.")
    assert "g++" in build or "clang" in build
    assert len(build.split()) >= 3


def test_identity_of_what_is_no_povray(tmp_path: Path) -> None:
    with pytest.raises(LocalFault, match=r"POV-Ray is not installed here.*apt install povray"):
        povray_identity(str(tmp_path / "none"))
    with pytest.raises(LocalFault, match="does not say its version"):
        povray_identity("true")
    unstartable = tmp_path / "text"
    unstartable.write_text("no program", encoding="ascii")
    unstartable.chmod(stat.S_IRUSR)
    with pytest.raises(LocalFault, match="cannot be run"):
        povray_identity(str(unstartable))
