from __future__ import annotations

from pathlib import Path

import pytest

from clusterray.core.model import LightKind
from clusterray.povray.light import light_in_text, scene_texts, wants_shared_light


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set()),
        ("global_settings { assumed_gamma 1 }", set()),
        ("global_settings { radiosity { } }", {"radiosity"}),
        ("global_settings{radiosity{count 5}photons{spacing 1}}", {"radiosity", "photons"}),
        ("global_settings {\n  photons\n  { count 1000 }\n}", {"photons"}),
        ("// global_settings { radiosity {} }", set()),
        ("/* global_settings { /* x */ radiosity {} } */", set()),
        ("/* a */ global_settings { radiosity {} } /* b */", {"radiosity"}),
        ('#debug "global_settings { radiosity {} }"', set()),
        ('#debug "\\" /*" global_settings { radiosity {} } // */', {"radiosity"}),
        ("sphere { 0, 1 photons { target reflection on } }", set()),
        ("sphere { 0, 1 no_radiosity }", set()),
        ("light_source { 0 photons { reflection on refraction on } }", set()),
        ("#if (0) global_settings { radiosity {} } #end", {"radiosity"}),
        ("// of an .inc that global_settings includes\nphotons { count 20000 }", {"photons"}),
        ("radiosity { pretrace_end 0.04 }", {"radiosity"}),
        ("global_settings { radiosity", set()),
        ("global_settings { photons { spacing", {"photons"}),
    ],
)
def test_light_in_text(text: str, expected: set[LightKind]) -> None:
    assert light_in_text(text) == expected


def test_of_several_files_and_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("global_settings { photons { count 5 } }", encoding="utf-8")
    (tmp_path / "b").write_bytes(b"\xff\xfe global_settings { radiosity { } }")
    found = wants_shared_light([tmp_path / "a", tmp_path / "b", tmp_path / "none"])
    assert found == {"photons", "radiosity"}


def test_includes_are_followed_as_povray_looks_for_them(tmp_path: Path) -> None:
    root = tmp_path / "scene"
    for name in ("lib", "start"):
        (root / name).mkdir(parents=True)
    main = root / "start" / "main.pov"
    main.write_text(
        '#include "colors.inc"\n//#include "no.inc"\n#include "a.inc"\n#  include "l.inc"',
        encoding="utf-8",
    )
    for path, text in {
        "start/a.inc": '#include "a.inc" #include "../../outside.inc"',
        "start/no.inc": "",
        "lib/l.inc": "",
        "lib/a.inc": "",
    }.items():
        (root / path).write_text(text, encoding="utf-8")
    (tmp_path / "outside.inc").touch()
    found = scene_texts(root, root / "start", main, [root / "lib"])
    assert sorted(path.relative_to(root).as_posix() for path in found) == [
        "lib/l.inc",
        "start/a.inc",
        "start/main.pov",
    ]


def test_an_include_put_together_while_parsing_takes_every_inc(tmp_path: Path) -> None:
    main = tmp_path / "main.pov"
    main.write_text('#include concat("a", str(1, 0, 0), ".inc")', encoding="utf-8")
    (tmp_path / "a1.inc").touch()
    (tmp_path / "b.pov").touch()
    found = scene_texts(tmp_path, tmp_path, main, [])
    assert sorted(path.name for path in found) == ["a1.inc", "main.pov"]


CORPUS = Path("/usr/share/doc/povray/examples")


@pytest.mark.skipif(not CORPUS.is_dir(), reason="Debian's povray-examples is not installed")
@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        ("radiosity/cornell.pov", {"radiosity"}),
        ("radiosity/patio-radio_37.pov", {"radiosity"}),
        ("lights/phot_met_glass.pov", {"photons"}),
        ("advanced/grenadine/grenadine.pov", {"photons"}),
        ("advanced/biscuit.pov", set()),
        ("advanced/abyss.pov", set()),
        ("advanced/chess2.pov", set()),
        ("advanced/woodbox.pov", set()),
    ],
)
def test_shipped_scenes(scene: str, expected: set[LightKind]) -> None:
    main = CORPUS / scene
    found = wants_shared_light(scene_texts(main.parent, main.parent, main, []))
    # glass and the like may have both; what is said to be there must be.
    assert found >= expected
    assert expected or not found
