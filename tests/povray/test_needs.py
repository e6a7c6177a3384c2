"""What the finder finds, in tables, and against the real POV-Ray: found files alone must do."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clusterray.povray.lookup import Lookup
from clusterray.povray.needs import Need, Needs, find_needs
from clusterray.povray.option_table import DEBIAN_LIBRARY_PATHS
from clusterray.povray.scene import files_to_stage, plan_job
from clusterray.povray.statements import read_statements

CORPUS = Path("/usr/share/doc/povray/examples")
SHIPPED = Path(DEBIAN_LIBRARY_PATHS[2])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "scene"
    folder.mkdir()
    return folder.resolve()


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def needs_of(
    folder: Path,
    text: str,
    files: Sequence[str] = (),
    libraries: Sequence[str] = (),
    **texts: str,
) -> Needs:
    """Find the needs of main.pov with ``text``; ``files`` are empty, ``texts`` are .inc files."""
    put(folder, dict.fromkeys(files, ""))
    put(folder, {f"{stem}.inc": inc for stem, inc in texts.items()})
    put(folder, {"main.pov": text})
    return find_needs(
        folder / "main.pov", start=folder, libraries=[folder / name for name in libraries]
    )


def found(folder: Path, needs: Needs) -> list[str]:
    return sorted(
        {
            need.found.path.relative_to(folder).as_posix()
            for need in needs.files
            if need.found is not None and not need.found.shipped
        }
    )


def missing(needs: Needs) -> list[Need]:
    return [need for need in needs.files if need.found is None]


# -------------------------------------------------------------------- statements


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ('#include "a.inc"', ["a.inc"]),
        ('# include\n"a"', ["a.inc"]),
        ('#include "a"', ["a.INC"]),
        ('#include "a.txt"', ["a.txt"]),
        ('image_map { png "wood.png" }', ["wood.png"]),
        ('image_map { png "wood" map_type 1 }', ["wood.png"]),
        ('image_map { "wood.jpg" gamma 1 }', ["wood.jpg"]),
        ('image_map { "wood" }', ["wood.png"]),
        ('image_map{jpeg"wood"}', ["wood.jpeg"]),
        ('bump_map { tiff "b.tif" }', ["b.tif"]),
        ('material_map { gif "m.gif" }', ["m.gif"]),
        ('function { pattern { image_pattern { exr "i.exr" } } }', ["i.exr"]),
        ('image_map { iff "i" }', ["i.lbm"]),
        ('image_map { sys "i" }', ["i.bmp"]),
        ('height_field { pot "h.pot" }', ["h.pot"]),
        ('height_field { "h.png" smooth }', ["h.png"]),
        ('text { ttf "my.ttf" "not a file.png" 1, 0 }', ["my.ttf"]),
        ('text { ttf "my" "x" 1, 0 }', ["my.ttf"]),
        ('density { density_file df3 "cloud" }', ["cloud.df3"]),
        ('global_settings { photons { load_file "p.ph" } }', ["p.ph"]),
        ('#fopen F "points.csv" read #read (F, X, Y)', ["points.csv"]),
        ('#fopen F "log.txt" append', ["log.txt"]),
        ('#if (file_exists("cache.inc")) #end', ["cache.inc"]),
        # Every branch counts.
        (
            '#if (0) #include "a.inc" #else #switch (1) #case (1) #include "b.inc" #end #end',
            ["a.inc", "b.inc"],
        ),
        ('#ifdef (X) #include "a.inc" #end', ["a.inc"]),
        # What is not there, is not needed.
        ('// #include "no.inc"\n/* image_map { png "no.png" } /* */ "no.png" */', []),
        ('#debug "image_map { png \\"no.png\\" }"', []),
        ("image_map { function 10, 10 { x } }", []),
        ('image_map { [0 rgb 1] [1 rgb 0] } pigment { image_map { png concat("", "") } }', []),
    ],
)
def test_statements_that_name_files(folder: Path, text: str, files: list[str]) -> None:
    needs = needs_of(folder, text, files)
    assert (found(folder, needs), missing(needs)) == (files, [])


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ('#declare N = "a.inc"; #include N', ["a.inc"]),
        ('#declare B = "a"; #declare N = concat(B, ".", "inc"); #include N', ["a.inc"]),
        ('#include concat("a", str(3, 0, 0), ".inc")', ["a3.inc"]),
        ('#declare I = 7; #include concat("a", str(I, -3, 0), ".inc")', ["a007.inc"]),
        ('#include concat("a", str(1.25, 0, 2), ".inc")', ["a1.25.inc"]),
        ('#declare A = array[2] { "x.png", "y.png" }; image_map { png A[1] }', ["x.png", "y.png"]),
        ('#declare A = array[9]; #declare A[3] = "x.png"; image_map { png A[3] }', ["x.png"]),
        ('#if (1) #declare N = "a"; #else #declare N = "b"; #end #include N', ["a.inc", "b.inc"]),
        ('#include strlwr("A.INC")', ["a.inc"]),
        ('#macro M(N) image_map { png N } #end M("x.png") M ( "y.png" )', ["x.png", "y.png"]),
        (
            '#macro T(A, B) image_map { png concat(A, B) } #end T("a", "1.png")',
            ["a1.png"],
        ),
        (
            '#macro In(N) #include N #end #macro Out(N) In(concat(N, ".inc")) #end Out("q")',
            ["q.inc"],
        ),
        ('#macro M() #local N = "x.png"; K() #end #macro K() image_map{png N} #end M()', ["x.png"]),
        ('#include "shapes.inc" object { Bevelled_Text("f.ttf", "x", 1,1,1,1,0,0) }', ["f.ttf"]),
        ('#declare N = "a"; #include B', ["a.inc", "b.inc"]),
    ],
)
def test_names_that_are_put_together(folder: Path, text: str, files: list[str]) -> None:
    needs = needs_of(folder, text, files, b='#include N #declare B = "b";')
    if "#include B" in text:
        # The name of the one file is declared in the other, whichever is read first.
        needs = needs_of(
            folder, '#include "b.inc" ' + text, files, b='#include N #declare B = "b";'
        )
    assert [name for name in found(folder, needs) if name in files] == files
    assert missing(needs) == []


@pytest.mark.parametrize(
    ("text", "files", "others"),
    [
        (
            'image_map { png concat("f", str(frame_number, -4, 0), ".png") }',
            ["f0001.png", "f0002.png"],
            ["g0001.png", "f.jpg"],
        ),
        ('#for (I, 1, 3) #include concat("p/", str(I, 0, 0)) #end', ["p/1.inc", "p/2.inc"], ["1"]),
        (
            '#declare S = "a"; #while (X) #declare S = concat(S, "b"); #end #include S',
            ["ab.inc"],
            [],
        ),
        ('#fopen F "list" read #read (F, N) #include concat("x", N)', ["list", "xy.inc"], ["y"]),
    ],
)
def test_names_that_only_parsing_tells_are_patterns(
    folder: Path, text: str, files: list[str], others: list[str]
) -> None:
    needs = needs_of(folder, text, [*files, *others])
    assert found(folder, needs) == files


def test_a_pattern_that_nothing_fits_is_said_and_never_certain(folder: Path) -> None:
    needs = needs_of(folder, '\n#include concat("w", str(clock, 0, 0), ".inc")')
    (need,) = missing(needs)
    assert (need.name, need.file, need.line, need.certain) == ("w*.inc", "main.pov", 2, False)


def test_includes_are_followed_and_named_with_their_place(folder: Path) -> None:
    needs = needs_of(
        folder,
        '#include "one.inc"',
        ["deep.png"],
        one='\r\n#include "two.inc"\r\n',
        two='#include "one.inc"\rimage_map { png "deep.png" }\rimage_map { png "gone.png" }',
    )
    assert found(folder, needs) == ["deep.png", "one.inc", "two.inc"]
    (need,) = missing(needs)
    assert (need.name, need.file, need.line, need.certain) == ("gone.png", "two.inc", 3, True)
    assert needs.texts[0] == folder / "main.pov"
    assert {path.name for path in needs.texts} == {"main.pov", "one.inc", "two.inc"}


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ('#include "gone.inc"', True),
        ('#declare N = "gone.inc"; #include N', True),
        ('image_map { png concat("go", "ne.png") }', True),
        ('#if (X) #include "gone.inc" #end', False),
        ('#while (X) #include "gone.inc" #end', False),
        ('#macro M() #include "gone.inc" #end M()', False),
        ('#declare N = "gone.inc"; #declare N = "main.pov"; #include N', False),
        ('#fopen F "n" write #read (F, N) #declare N = "gone.inc"; image_map { png N }', False),
        ('#if (X) #include "a.inc" #end', False),
        ('#include "a.inc" #if (X) #end', True),
    ],
)
def test_when_a_missing_file_is_certain(folder: Path, text: str, certain: bool) -> None:
    needs = needs_of(folder, text, a='#include "gone.inc"')
    assert [need.certain for need in missing(needs) if "gone" in need.name] == [certain]


@pytest.mark.parametrize(
    "text",
    [
        '#fopen F "made.inc" write #write (F, "x") #fclose F #include "made.inc"',
        '#if (file_exists("cache.inc")) #end',
        '#fopen F "log.txt" append',
        '#include "shapes.inc" #include "makegrass.inc" #include "meshmaker.inc"',
        '#declare Unused = "gone.png";',
        "#macro Never_Called(N) image_map { png N } #end",
    ],
)
def test_what_is_not_missing(folder: Path, text: str) -> None:
    assert missing(needs_of(folder, text)) == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("maps/Wood.PNG", "there is maps/wood.png, and capital letters count there"),
        ("maps\\\\wood.png", "want / between folders"),
        ("maps/wöd.png", "beyond ASCII"),
        ("other.png", ""),
    ],
)
def test_hints(folder: Path, name: str, hint: str) -> None:
    needs = needs_of(folder, f'image_map {{ png "{name}" }}', ["maps/wood.png"])
    (need,) = missing(needs)
    assert hint in need.hint
    assert bool(hint) == bool(need.hint)


def test_declared_by_the_job(folder: Path) -> None:
    put(folder, {"main.pov": "#include N #include concat(str(I, 0, 0), S)", "a.inc": "", "3x": ""})
    needs = find_needs(
        folder / "main.pov",
        start=folder,
        declares=[("N", '"a.inc"'), ("I", "3"), ("S", '"x"')],
    )
    assert found(folder, needs) == ["3x", "a.inc"]


# -------------------------------------------------------------------- POV-Ray's order of looking


def test_every_shipped_file_is_known_and_there() -> None:
    lookup = Lookup(Path("/nonexistent"))
    for path in SHIPPED.iterdir():
        known = lookup.find(path.name, "data")
        assert known is not None, path
        assert known.shipped, path
        assert known.path == path


def test_a_file_of_the_folder_goes_before_a_shipped_one_and_that_before_a_library(
    folder: Path,
) -> None:
    put(folder, {"lib/colors.inc": "", "lib/own.inc": "", "lib2/own.inc": "", "shapes.inc": ""})
    text = '#include "colors.inc" #include "own.inc" #include "shapes.inc"'
    needs = needs_of(folder, text, libraries=["lib", "lib2"])
    assert found(folder, needs) == ["lib/own.inc", "shapes.inc"]


def opened(folder: Path, *words: str) -> str:
    """Let POV-Ray say which of the a.inc there are it opens."""
    done = subprocess.run(
        ["povray", "+Imain.pov", "+W1", "+H1", "-D", "-F", *words],
        cwd=folder,
        env={"HOME": str(folder), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    return next((w for w in done.stderr.split() if w.startswith("opened:")), "none")


@pytest.mark.parametrize(
    "there",
    [
        ["a.inc", "a.inc.inc"],
        ["a.inc.inc", "a.inc.INC"],
        ["lib/a.inc", "a.inc.inc"],
        ["lib/a.inc.inc", "lib2/a.inc"],
        ["lib/a.inc", "lib2/a.inc"],
        ["lib2/a.inc.INC"],
        ["lib3/a.inc"],
    ],
)
def test_the_order_is_the_real_povrays(folder: Path, there: list[str]) -> None:
    for library in ("lib", "lib2"):
        (folder / library).mkdir()
    put(folder, {name: f'#debug " opened:{name} \\n"' for name in there})
    needs = needs_of(folder, '#include "a.inc"', libraries=["lib", "lib2"])
    ours = found(folder, needs)
    assert opened(folder, "+Llib", "+Llib2") == (f"opened:{ours[0]}" if ours else "none")


def test_an_absolute_name_is_not_sought_below_library_paths(folder: Path) -> None:
    put(folder, {"lib/nowhere/a.inc": '#debug " opened:lib "'})
    needs = needs_of(folder, '#include "/nowhere/a.inc"', libraries=["lib"])
    assert len(missing(needs)) == 1
    assert opened(folder, "+Llib") == "none"


# -------------------------------------------------------------------- found files alone must do


# Every folder of the corpus that has includes, images, height fields, fonts or density files of its
# own, and a spread of those that use POV-Ray's; what is slow to parse is left to scripts.
SCENES = """
advanced/blocks/stackerday advanced/blocks/stackergold advanced/crater/crater
advanced/desk/desk advanced/drums2/drums advanced/float5 advanced/glasschess/glasschess
advanced/mtmand advanced/ntreal/ntreal advanced/sunsethf advanced/teapot/teapot
advanced/teapot/teapot2 advanced/teapot/teapot3 advanced/teapot/teapot4 animations/clockd/clockd
animations/float1/float1 animations/quilted/plotqlt animations/vect1/vect1 camera/cylinder1
camera/mesh_camera/baking_demo camera/mesh_camera/meshcam_ortho_demo incdemo/circletext
incdemo/finish incdemo/glasses/glass incdemo/metals/brasses incdemo/screen incdemo/texture1
incdemo/woods/wood_1 interior/media/galaxy interior/media/media3 language/arrays/array1
language/fileio/fileio language/image_size language/macros/local language/macros/macro4
lights/circular objectmods/double_illuminate objects/chesmsh objects/csg/hfclip objects/primitiv
objects/prism3a objects/quartic/grafbic objects/ttf1 portfolio/o_shapes
templates/Basic_Scenes/Orthographic_isometric textures/finishes/var_reflection
textures/normals/bumpmap textures/patterns/agate textures/patterns/densfile
textures/patterns/slopemt_37 textures/pigments/mapper
"""
in_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason="povray-examples is not installed")


def rendered(folder: Path, scene: str, output: Path) -> bytes:
    """Render a shipped scene small and give its pixels."""
    words = ["povray", f"+I{scene}", "+W32", "+H24", "-D", "+FN8", "+WT1", f"+O{output}"]
    subprocess.run(words, cwd=folder, capture_output=True, check=True)
    with Image.open(output) as image:
        return image.tobytes()


@pytest.mark.slow
@in_corpus
@pytest.mark.parametrize("scene", SCENES.split())
def test_the_found_files_alone_make_the_same_picture(tmp_path: Path, scene: str) -> None:
    main = CORPUS / f"{scene}.pov"
    plan = plan_job(
        main, [], width=32, height=24, region=None, home=Path("/nonexistent"), only_needed=True
    )
    tree = tmp_path / "tree"
    for name in files_to_stage(plan, max_bytes=1 << 30, max_files=1000):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(plan.elsewhere.get(name, plan.root / name), tree / name)
    # Some scenes write files where they stand.
    shutil.copytree(main.parent, tmp_path / "whole")
    whole = rendered(tmp_path / "whole", main.name, tmp_path / "whole.png")
    assert rendered(tree, main.name, tmp_path / "tree.png") == whole


@pytest.mark.slow
@in_corpus
def test_every_name_of_the_whole_corpus_is_resolved_but_for_files_nobody_has() -> None:
    unresolved = {
        (path.relative_to(CORPUS).as_posix(), need.name)
        for path in sorted(CORPUS.rglob("*.pov"))
        for need in missing(find_needs(path, start=path.parent))
        if need.certain
    }
    assert unresolved == {
        # Made by rendering another scene first.
        ("advanced/cliche/cliche.pov", "sign"),
        # A font of Windows.
        ("incdemo/sort.pov", "arial.ttf"),
        # A template, to be filled in by hand.
        ("portfolio/__empty.pov", "... .inc"),
    }


# -------------------------------------------------------------------- any text at all

PIECES = st.lists(
    st.sampled_from(
        [
            *("#include ", "#declare ", "#local ", "#macro ", "#end ", "#if (1) ", "#fopen F "),
            *("#read (F, ", "image_map {", "png ", "ttf ", "file_exists(", "load_file "),
            *('"a.inc"', '"a', '"', "N ", "M ", "M(", "concat(", "str(", "array[2] {", "strlwr("),
            *("= ", "(", ")", "{", "}", "[", "]", ",", ";", "1 ", "-2.5 ", "/*", "*/", "//", "\n"),
            *("read ", "write ", "\\", "é", "../", '"/etc/passwd"'),
        ]
    ),
    max_size=40,
).map("".join)


@given(PIECES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=5000)
def test_no_text_leads_the_finder_astray(folder: Path, text: str) -> None:
    needs = needs_of(folder, text, a=text)
    for need in needs.files:
        assert need.file in ("main.pov", "a.inc") or need.file.startswith("/usr/share")
        assert 1 <= need.line <= text.count("\n") + 1
    assert needs.texts[0] == folder / "main.pov"


def test_many_calls_and_much_nesting_take_no_time(folder: Path) -> None:
    calls = "\n".join(f"Brick({number}, T_Wood)" for number in range(20_000))
    brick = "#macro Brick(A, T) #local R = A; box { R, R + 1 texture { T } } #end\n"
    began_at = time.process_time()
    needs_of(folder, brick + calls)
    needs_of(folder, f"#include {'concat(' * 3000}")
    needs_of(folder, "#declare N = N2; #declare N2 = concat(N, N); #include N" * 200)
    assert time.process_time() - began_at < 20


@pytest.mark.parametrize("words", ["#read(", "#fopen F M(", "#declare a[", "#macro M("])
def test_brackets_that_nothing_closes_cost_no_time_squared(words: str) -> None:
    begun = time.process_time()
    read_statements(words * 20_000)
    # From each of them the whole rest was once looked through: minutes.
    assert time.process_time() - begun < 10
