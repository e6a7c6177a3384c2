"""Photons blocks in a scene's text: found, extended where that is safe, else left alone."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from clusterray.core.errors import LocalFault
from clusterray.povray.photons import (
    extend_text,
    find_photons,
    load_photons,
    plan_photons,
    save_photons,
)
from clusterray.povray.spec import RenderSpec

WORDS = 'load_file "/m"'
IN = f" {WORDS} "

needs_povray = pytest.mark.skipif(
    shutil.which("povray") is None, reason="povray is not installed: apt install povray"
)


def extended(text: str) -> str:
    return extend_text(text, WORDS)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("global_settings { photons {", " count 20000 } }"),
        ("global_settings{max_trace_level 5 photons{", "}}"),
        ("global_settings {\r\n  photons\r\n  {", "\r\n    spacing 0.1\r\n  }\r\n}\r\n"),
        ("global_settings { photons // { not this\n {", " // } nor this\n spacing 1 } }"),
        ("global_settings { photons /* { */ {", ' /* } */ spacing "}" } }'),
        ("#if (Photons=on) global_settings { photons {", " spacing 1 } } #end"),
        ("global_settings { #if (a) radiosity { count 9 } #end photons {", " spacing 1 } }"),
        ("global_settings { photons {", " #if (a) spacing 1 #else count 5 #end } }"),
        ("global_settings { photons {", " #if (a) spacing 1 } #else count 5 } #end }"),
        ("#if (a) union { #else merge { #end } global_settings { photons {", " spacing 1 } }"),
        ("global_settings { photons {", " spacing 1"),
        # A macro and a file that global_settings includes have the block by itself.
        ("#macro Ph(N) photons {", " count N } #end"),
        ("photons {", " spacing 0.02 autostop 0 }"),
        ("global_settings { radiosity { load_file 'x' } photons {", " spacing 1 } }"),
        ("\xfcber // \xff\n#declare \xe4=1; global_settings { photons {", " spacing 1 } }"),
        ("sphere { 0, 1 photons { target } } global_settings { photons {", " spacing 1 } }"),
        ("global_settings { photons {", " spacing 1 } } light_source { photons { collect off } }"),
    ],
)
def test_the_word_goes_behind_the_opening_brace(before: str, after: str) -> None:
    assert extended(before + after) == before + IN + after
    assert extended(before + after).count("\n") == (before + after).count("\n")


def test_of_two_blocks_each_is_extended() -> None:
    one, two = "global_settings { photons {", " spacing 1 } }\nglobal_settings { photons {"
    assert extended(one + two + " } }") == one + IN + two + IN + " } }"


def test_behind_a_map_that_the_scene_saves_itself() -> None:
    text = 'global_settings { photons { count 5 save_file "a" } }'
    assert extended(text) == f'global_settings {{ photons {{ count 5 save_file "a" {IN}}} }}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sphere { 0, 1 photons { target reflection on } }",
        "// global_settings { photons { spacing 1 } }",
        '#debug "global_settings { photons { spacing 1 } }"',
        "/* global_settings { /* */ photons { spacing 1 } } */",
        "union { photons { spacing 1 } }",
    ],
)
def test_there_is_nothing_to_extend(text: str) -> None:
    with pytest.raises(ValueError, match="no photons block"):
        extended(text)


def test_an_objects_block_is_none_of_global_settings() -> None:
    text = "light_source { 0 photons { reflection on } } sphere { 0, 1 photons { collect off } }"
    photons = find_photons(text)
    assert len(photons.blocks) == 2 and photons.global_blocks == []


def settings(block: str) -> str:
    return f"global_settings {{ assumed_gamma 1\n photons {{ {block} }} }}\n"


@pytest.mark.parametrize(
    ("texts", "files"),
    [
        ({"a.pov": settings("spacing 1")}, ["a.pov"]),
        ({"a.pov": "", "b/c.inc": settings("spacing 1")}, ["b/c.inc"]),
        ({"a.pov": settings("count 5"), "b.inc": settings("spacing 1")}, ["a.pov", "b.inc"]),
        ({"a.pov": settings('spacing 1 save_file "mine"')}, ["a.pov"]),
        ({"a.pov": settings("spacing 1"), "b.inc": "radiosity { save_file 'x' }"}, ["a.pov"]),
    ],
)
def test_a_map_is_shot_once_where_its_blocks_can_be_extended(
    texts: dict[str, str], files: list[str]
) -> None:
    plan = plan_photons(texts)
    assert (plan.way, list(plan.files)) == ("share", files)


def test_a_scene_that_loads_its_own_map_needs_none() -> None:
    text = "#if (On)\n" + settings('gather 20, 80 load_file "my.map"') + "#end"
    assert plan_photons({"a.pov": text}).way == "own map"
    text = settings('save_file "x" load_file "my.map"')
    assert plan_photons({"a.pov": text}).way == "own map"


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (
            {"a.pov": settings('#if (Fast) load_file "m" #else save_file "m" #end')},
            "the photons block at a.pov:2 may load a photon map or not",
        ),
        (
            {"a.pov": settings('load_file "m" save_file "m"')},
            "the photons block at a.pov:2 may load a photon map or not",
        ),
        (
            {"a.pov": settings("load_file Map")},
            "the photons block at a.pov:2 may load a photon map or not",
        ),
        (
            {"a.pov": settings('load_file "m"'), "b.inc": settings("spacing 1")},
            "the photons block at b.inc:2 may load a photon map or not",
        ),
        (
            {"a.pov": settings('spacing 1 #if (Save) save_file "m" #end')},
            "a.pov:2 saves a photon map on a condition",
        ),
        (
            {"a.pov": settings("Options()"), "b.inc": '\n#macro Options() save_file "m" #end'},
            "b.inc:2 names a photon map outside a block",
        ),
        (
            {"a.pov": settings('spacing 1 save_file "m"') + "}"},
            "a.pov:2 saves a photon map on a condition",
        ),
        (
            {"a.pov": "global_settings { #if (a) Macro { photons { spacing 1 } } #end }"},
            "the photons block at a.pov:1 is not plainly that of global_settings",
        ),
        (
            {f"{number}.inc": settings("spacing 1") for number in range(101)},
            "101 files of it have photons blocks",
        ),
    ],
)
def test_a_scene_is_rendered_whole_where_it_cannot_be_certain(
    texts: dict[str, str], reason: str
) -> None:
    plan = plan_photons(texts)
    assert (plan.way, plan.reason) == ("whole", reason)


# ---------------------------------------------------------------- the copies that are rendered


def linked(folder: Path, files: dict[str, bytes]) -> Path:
    """A scene of links to read-only files, as a node has it."""
    for name, data in files.items():
        kept = folder / "kept" / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(data)
        kept.chmod(0o444)
        link = folder / "scene" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(kept)
    return folder / "scene"


def spec_of(*files: str) -> RenderSpec:
    return RenderSpec(
        input="a.pov", width=8, height=8, light=("photons",), photon_files=tuple(files)
    )


def test_only_the_copies_change_and_every_other_byte_stays(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf// \xe4\xff\x80\r\nglobal_settings {\r\n photons { spacing 1 } }\r\n"
    scene = linked(tmp_path, {"a.pov": b'#include "b/c.inc"', "b/c.inc": text})
    save_photons(scene, spec_of("b/c.inc"), Path("/out/made"))
    changed = text.replace(b"photons {", b'photons { save_file "/out/made" ')
    assert (scene / "b" / "c.inc").read_bytes() == changed
    assert (tmp_path / "kept" / "b" / "c.inc").read_bytes() == text
    assert (scene / "a.pov").is_symlink()


def test_a_file_that_lacks_its_block_is_named(tmp_path: Path) -> None:
    scene = linked(tmp_path, {"a.pov": b"sphere { }"})
    with pytest.raises(LocalFault, match=r"a\.pov of the scene cannot be lit"):
        load_photons(scene, spec_of("a.pov"), Path("/m"))


GLASS = """
#version 3.7;
%s
camera { location <0, 4, -5> look_at 0 }
light_source { <3, 6, 2> rgb 1 photons { refraction on reflection on } }
plane { y, -1 pigment { rgb 1 } }
sphere { 0, 1 pigment { rgbt 1 } finish { reflection 0.1 } interior { ior 1.5 }
  photons { target refraction on reflection on } }
"""


@needs_povray
@pytest.mark.parametrize(
    "block",
    [
        "global_settings { assumed_gamma 1 photons { spacing 0.1 } }",
        "global_settings { assumed_gamma 1 photons { radius media 10 spacing 0.1 } }",
        "#macro P() photons { #if (1) spacing 0.1 #end } #end global_settings { P() }",
        'global_settings { assumed_gamma 1 photons { spacing 0.1 save_file "mine" } }',
    ],
)
def test_povray_takes_the_word_where_it_stands(tmp_path: Path, block: str) -> None:
    for name, change in (("save", save_photons), ("load", load_photons)):
        scene = linked(tmp_path / name, {"a.pov": (GLASS % block).encode()})
        change(scene, spec_of("a.pov"), tmp_path / "map")
        argv = ["povray", "-D", "-P", "+Ia.pov", "-F", "+W8", "+H8", "+WT1", "-GR"]
        done = subprocess.run(argv, cwd=scene, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert (tmp_path / "map").stat().st_size > 1000
        assert not (scene / "mine").exists()
        assert ("photons shot" in done.stderr) is (name == "save")


@pytest.mark.parametrize("text", ["photons {" * 20_000, "{" * 20_000 + "photons{}" * 20_000])
def test_braces_without_end_cost_no_time_squared(text: str) -> None:
    begun = time.process_time()
    assert not find_photons(text).paired
    # Each block once held all behind it, and gigabytes together.
    assert time.process_time() - begun < 10


def test_a_block_deep_inside_global_settings_is_still_of_it() -> None:
    (block,) = find_photons("global_settings {" + "{" * 100 + "photons { }" + "}" * 101).blocks
    assert block.is_global
    assert not block.is_extendable
