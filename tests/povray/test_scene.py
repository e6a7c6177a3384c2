from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from clusterray.core.errors import SceneFault, UsageFault
from clusterray.core.model import Chance, FileFormat, Rect
from clusterray.images import stitch
from clusterray.images.formats import pixel_bytes
from clusterray.images.gathered import gather
from clusterray.povray.scene import RESULT_KEYWORD, JobPlan, files_to_stage, plan_job

GIB = 1 << 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "scene"
    folder.mkdir()
    return folder.resolve()


def plan(scene: Path, *options: str, home: Path | None = None) -> JobPlan:
    home = home or Path("/nonexistent/home")
    return plan_job(scene, options, width=None, height=None, region=None, home=home)


def put(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / name.replace("__", ".")
        path.write_text(text, encoding="utf-8")


def staged(folder: Path, **limits: int) -> list[str]:
    found = plan(folder)
    return files_to_stage(found, **{"max_bytes": GIB, "max_files": 1000, **limits})


# -------------------------------------------------------------------- what is rendered


def test_the_only_scene_of_a_folder(folder: Path) -> None:
    put(folder, room__pov="", colors__inc="")
    found = plan(folder)
    assert (found.root, found.spec.input, found.spec.start) == (folder, "room.pov", ".")
    assert (found.output_name, found.title, found.bands, found.notes) == (
        "room.png",
        "room",
        None,
        [],
    )
    assert found.spec.sources["Input_File_Name"] == "the only .pov of the folder"


def test_what_a_scene_draws_lots_for_is_found_in_all_its_own_texts(folder: Path) -> None:
    (folder / "parts").mkdir()
    (folder / "parts" / "lamp.inc").write_text("\nlight_source { 0 area_light x, z, 4, 4 jitter }")
    (folder.parent / "dust.inc").write_text("media { method 1 }")
    put(folder, room__pov='#include "parts/lamp.inc"\n#include "../dust.inc"\nfinish { crand 1 }')
    put(folder, unused__inc="media { jitter 1 }")
    assert plan(folder).chance == [
        Chance("crand", "room.pov", 3),
        Chance("area_light with jitter", "parts/lamp.inc", 2),
        Chance("media of method 1", "../dust.inc", 1),
    ]


@pytest.mark.parametrize("letter", ["N", "P", "T", "C", "J", "E", "H"])
def test_a_farms_own_picture_of_any_format_stays_behind(folder: Path, letter: str) -> None:
    put(folder, room__pov="")
    kind = FileFormat(letter, 16 if letter == "E" else 8)
    said = (b"magic", b"P6"), (b"maxval", b"255"), (b"gamma", bytes(4)), (b"alpha", b"\0")
    colour = said if letter in "PTC" else ()
    rows = gather(kind, (60, 40), folder.parent, threads=1)
    rows.put(Rect(0, 0, 60, 40), bytes(60 * 40 * pixel_bytes(kind)))
    rows.write(folder / f"room.{kind.extension}", colour, lambda: None)
    rows.close()
    assert staged(folder) == ["room.pov"]
    put(folder, map__inc=f'"room.{kind.extension}"')
    assert f"room.{kind.extension}" in staged(folder)


def test_the_name_given_with_o_chooses_the_format_where_nothing_else_does(folder: Path) -> None:
    put(folder, room__pov="")

    def kind(out: str, *options: str) -> tuple[str, bool]:
        home = folder.parent / "home"
        found = plan_job(
            folder, options, width=None, height=None, region=None, home=home, out_extension=out
        )
        return found.spec.file_type, found.spec.grey

    assert kind("exr") == ("E", False)
    assert kind("jpeg") == ("J", False)
    assert kind("pgm") == ("P", True)
    assert kind("v2") == ("N", False)
    # An explicit one is stronger; that the name does not fit is found where it is used.
    assert kind("exr", "+FT") == ("T", False)
    put(folder, room__ini="Output_File_Type=H")
    assert kind("exr") == ("H", False)


def test_upper_case_suffixes(folder: Path) -> None:
    put(folder, ROOM__POV="", ROOM__INI="Width=5")
    found = plan(folder)
    assert (found.spec.input, found.spec.width, found.output_name) == ("ROOM.POV", 5, "ROOM.png")


def test_a_scene_file_stages_its_folder(folder: Path) -> None:
    put(folder, a__pov="", b__pov="", other__ini="Width=5", job__yaml="width: 7")
    found = plan(folder / "b.pov")
    assert (found.root, found.spec.input, found.spec.width) == (folder, "b.pov", 800)
    assert found.notes == ["job.yaml is not read, because b.pov was named."]


def test_an_ini_file_and_its_section(folder: Path) -> None:
    put(folder, a__pov="", b__pov="", s__ini="Input_File_Name=b\n[low]\nWidth=5\n")
    assert plan(folder / "s.ini").spec.width == 800
    found = plan(folder / "s.ini[low]")
    assert (found.spec.input, found.spec.width) == ("b.pov", 5)
    assert found.spec.sources["Width"] == "s.ini line 3"


def test_job_yaml_comes_before_params_cfg_before_the_ini(folder: Path) -> None:
    put(folder, a__pov="", s__ini="Width=3", params__cfg="imageWidth:4", job__yaml="width: 5")
    assert plan(folder).spec.width == 5
    (folder / "job.yaml").unlink()
    assert plan(folder).spec.width == 4
    (folder / "params.cfg").unlink()
    assert plan(folder).spec.width == 3


def test_the_only_ini_if_it_names_a_scene_among_several(folder: Path) -> None:
    put(folder, a__pov="", b__pov="", s__ini="+Ib.pov\n")
    assert plan(folder).spec.input == "b.pov"


def test_povray_ini_is_read_but_is_not_the_only_ini(folder: Path) -> None:
    put(folder, a__pov="", povray__ini="Width=3\nHeight=4\n", s__ini="Width=5")
    spec = plan(folder).spec
    assert (spec.width, spec.height) == (5, 4)
    (folder / "s.ini").unlink()
    spec = plan(folder / "a.pov").spec
    assert (spec.width, spec.height) == (3, 4)
    assert spec.sources["Width"] == "povray.ini line 1"


def test_povray_ini_given_by_name_is_read_once(folder: Path) -> None:
    put(folder, a__pov="", povray__ini="Width=3\nDeclare=x=1\n")
    found = plan(folder / "povray.ini")
    assert (found.spec.width, found.notes) == (3, [])


def test_two_ini_files_are_said_not_to_be_read(folder: Path) -> None:
    put(folder, a__pov="", s__ini="Width=3", t__ini="Width=4")
    found = plan(folder)
    assert found.spec.width == 800
    assert found.notes == [
        "s.ini and t.ini are not read; name an INI file instead of the folder to use it."
    ]


def test_two_scenes_and_no_hint_list_the_candidates(folder: Path) -> None:
    put(folder, a__pov="", b__pov="", s__ini="Width=3")
    with pytest.raises(SceneFault, match=r"holds 2 scenes: a\.pov and b\.pov; name one") as caught:
        plan(folder)
    assert caught.value.exit_code == 3
    assert plan(folder, "+Ib.pov").spec.input == "b.pov"
    assert plan(folder, "b.pov").spec.input == "b.pov"


def test_hidden_files_and_windows_desktop_ini_are_no_candidates(folder: Path) -> None:
    put(folder, a__pov="", desktop__ini="[x]", s__ini="Width=3")
    (folder / ".b.pov").touch()
    (folder / "a.pov~").touch()
    (folder / "d.pov").mkdir()
    assert plan(folder).spec.width == 3


def test_an_empty_folder(folder: Path) -> None:
    with pytest.raises(SceneFault, match="is empty; there is no scene in it"):
        plan(folder)


def test_a_folder_without_a_scene(folder: Path) -> None:
    put(folder, readme__txt="")
    with pytest.raises(SceneFault, match=r"neither a \.pov file nor job\.yaml"):
        plan(folder)
    put(folder, s__ini="Width=3")
    with pytest.raises(SceneFault, match="no INI file that is used names one"):
        plan(folder / "s.ini")


def test_a_scene_that_does_not_exist_is_a_fault_of_the_command_line(folder: Path) -> None:
    for name in ("none", "none.pov", "s.ini[x]"):
        with pytest.raises(UsageFault, match="there is no file or folder") as caught:
            plan(folder / name)
        assert caught.value.exit_code == 2


def test_what_is_no_scene(folder: Path) -> None:
    put(folder, x__txt="")
    os.mkfifo(folder / "pipe.pov")
    with pytest.raises(UsageFault, match=r"neither a folder nor a \.pov nor an \.ini"):
        plan(folder / "x.txt")
    with pytest.raises(UsageFault, match="neither a folder nor a file"):
        plan(folder / "pipe.pov")


def test_a_folder_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, a__pov="")
    # Who runs the tests may be root, whom no mode stops.
    refused = PermissionError(13, "Permission denied")

    def no_listing(_path: object) -> list[str]:
        raise refused

    monkeypatch.setattr(os, "listdir", no_listing)
    with pytest.raises(SceneFault, match="cannot be read: Permission denied") as caught:
        plan(folder)
    assert str(folder) in str(caught.value)


def test_the_home_folder_is_not_sent_by_mistake(folder: Path) -> None:
    put(folder, a__pov="")
    for scene in (folder, folder / "a.pov", Path(f"{folder}/../{folder.name}")):
        with pytest.raises(SceneFault, match="is your home folder, and all of it would be sent"):
            plan(scene, home=folder)
    with pytest.raises(SceneFault, match="the whole file system"):
        plan(Path("/"))
    (folder / "sub").mkdir()
    put(folder / "sub", b__pov="")
    assert plan(folder / "sub", home=folder).spec.input == "b.pov"


def test_the_own_settings_are_not_read_and_that_is_said(folder: Path, tmp_path: Path) -> None:
    put(folder, a__pov="")
    home = tmp_path / "home"
    (home / ".povray" / "3.7").mkdir(parents=True)
    put(home / ".povray" / "3.7", povray__ini="Width=3")
    found = plan(folder, home=home)
    assert found.spec.width == 800
    assert len(found.notes) == 1
    assert ".povray are not used" in found.notes[0]


def test_a_scene_outside_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    put(folder, s__ini="Input_File_Name=../x.pov")
    put(tmp_path, x__pov="")
    with pytest.raises(SceneFault, match=r"x\.pov lies outside the folder") as caught:
        plan(folder)
    assert (caught.value.file, caught.value.line) == ("s.ini", 1)


def test_a_linked_scene_file_stages_the_folder_of_the_link(folder: Path, tmp_path: Path) -> None:
    put(tmp_path, x__pov="")
    (folder / "a.pov").symlink_to(tmp_path / "x.pov")
    found = plan(folder / "a.pov")
    assert (found.root, found.spec.input) == (folder, "a.pov")
    assert files_to_stage(found, max_bytes=10, max_files=10) == ["a.pov"]


def test_names_with_spaces_and_letters_of_any_language(folder: Path) -> None:
    put(folder, **{"my scène 名.pov": ""})
    found = plan(folder)
    assert found.spec.input == "my scène 名.pov"
    assert found.output_name == "my scène 名.png"
    assert files_to_stage(found, max_bytes=10, max_files=10) == ["my scène 名.pov"]


def test_a_start_below_the_root_is_the_job_s_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    put(folder / "sub", a__pov="")
    put(folder, job__yaml="scene: sub/a.pov")
    spec = plan(folder).spec
    assert (spec.input, spec.start) == ("sub/a.pov", ".")


def test_the_output_s_name(folder: Path) -> None:
    put(folder, a__pov="")
    assert plan(folder, "+Oshot.png").output_name == "shot.png"


def test_regions_and_sizes_of_their_own_switches(folder: Path) -> None:
    put(folder, a__pov="")
    found = plan_job(
        folder, ["+W5"], width=9, height=8, region=Rect(1, 1, 9, 8), home=Path("/nonexistent")
    )
    assert (found.spec.width, found.spec.height) == (9, 8)
    assert found.spec.sources["Region"] == "--region"
    with pytest.raises(UsageFault, match="--width 0: it must lie between 1 and 1000000"):
        plan_job(folder, [], width=0, height=8, region=None, home=Path("/nonexistent"))


# -------------------------------------------------------------------- shared light


def test_radiosity_asks_for_a_light_pass(folder: Path) -> None:
    put(folder, a__pov='#include "light.inc"', light__inc="global_settings { radiosity {} }")
    put(folder, job__yaml="bands: 9")
    found = plan(folder)
    assert (found.bands, found.spec.light) == (9, ("radiosity",))
    assert found.notes == [
        "This scene may use radiosity; its light is made first, once for all bands."
    ]


def test_photons_are_shot_first_and_the_spec_says_where_they_are(folder: Path) -> None:
    put(folder, a__pov='global_settings { radiosity {} #include "ph.inc" }')
    put(folder, ph__inc="photons { spacing 1 }", job__yaml="bands: 9")
    found = plan(folder)
    assert (found.bands, found.spec.light) == (9, ("photons", "radiosity"))
    assert found.spec.photon_files == ("ph.inc",)
    assert found.notes == [
        "This scene may use photons and radiosity; its light is made first, once for all bands."
    ]


def test_photons_that_bands_cannot_share_are_rendered_whole(folder: Path) -> None:
    block = 'photons { #if (Again) load_file "m" #end spacing 1 }'
    put(folder, a__pov="global_settings { radiosity {}\n" + block + " }")
    put(folder, job__yaml="bands: 9")
    found = plan(folder)
    assert (found.bands, found.spec.light, found.spec.photon_files) == (1, (), ())
    assert found.notes[-1] == (
        "One node renders this scene whole, because the photons block at a.pov:2 may load a "
        "photon map or not; its bands could not share one photon map."
    )


def test_a_scene_that_loads_its_own_map_needs_no_photon_pass(folder: Path) -> None:
    put(folder, a__pov='global_settings { photons { load_file "my.map" } }', my__map="map")
    found = plan(folder)
    assert (found.bands, found.spec.light, found.notes) == (None, (), [])
    assert found.chance == []


def test_photons_of_a_file_from_elsewhere_are_named_where_they_will_stand(folder: Path) -> None:
    scene = folder / "scene"
    scene.mkdir()
    put(folder, ph__inc="global_settings { photons { spacing 1 } }")
    put(scene, a__pov='#include "../ph.inc"\nsphere { 0, 1 }')
    found = plan(scene)
    assert (found.spec.input, found.spec.photon_files) == ("scene/a.pov", ("ph.inc",))


def test_the_light_of_a_neighbour_does_not_count(folder: Path) -> None:
    put(folder, a__pov="sphere{}", b__pov="global_settings { radiosity {} }")
    assert not plan(folder / "a.pov").spec.light
    assert plan(folder / "b.pov").spec.light


def test_light_in_a_header_and_behind_a_library_path(folder: Path) -> None:
    (folder / "inc").mkdir()
    put(folder, a__pov="", head__inc='#include "deep.inc"')
    put(folder / "inc", deep__inc="global_settings { photons { spacing 0.1 } }")
    found = plan(folder / "a.pov", "+HIhead.inc", "+Linc").spec
    assert (found.light, found.photon_files) == (("photons",), ("inc/deep.inc",))
    assert plan(folder / "a.pov").bands is None


# -------------------------------------------------------------------- which files travel


def picture(path: Path, *, own: bool, text: str = "job 7") -> None:
    info = PngImagePlugin.PngInfo()
    if own:
        info.add_text(RESULT_KEYWORD.decode(), text)
    info.add_text("Comment", "x")
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)


def test_everything_travels_but_what_is_known_not_to(folder: Path) -> None:
    put(folder, a__pov="", tex__jpg="", _x="")
    for name in (".git", ".svn", ".hg", "__pycache__", "sub"):
        (folder / name).mkdir()
        put(folder / name, inside__txt="")
    for name in ("a.pov~", ".a.pov.swp", "#a.pov#", ".#a.pov", ".DS_Store", "a.pov-state", "._a"):
        (folder / name).touch()
    assert staged(folder) == ["_x", "a.pov", "sub/inside.txt", "tex.jpg"]


def test_own_results_stay_at_home_whatever_they_are_called(folder: Path) -> None:
    put(folder, a__pov='image_map { png "wood.png" } #declare N = "maps/stone"; "other"')
    (folder / "maps").mkdir()
    picture(folder / "result.png", own=True)
    picture(folder / "wood.png", own=True)
    picture(folder / "maps" / "stone.png", own=True)
    picture(folder / "ClusterRay.png", own=False)
    put(folder, broken__png="\x89PNG")
    assert staged(folder) == ["ClusterRay.png", "a.pov", "broken.png", "maps/stone.png", "wood.png"]


def test_the_mark_is_the_one_that_the_stitcher_makes() -> None:
    assert RESULT_KEYWORD.decode() == stitch.RESULT_KEYWORD


def test_a_mark_behind_the_pixels_is_none(folder: Path) -> None:
    put(folder, a__pov="")
    picture(folder / "x.png", own=False)
    data = (folder / "x.png").read_bytes()
    (folder / "x.png").write_bytes(data[:-12] + b"\0\0\0\x0ctEXtClusterRay\0z" + b"\0" * 4)
    assert "x.png" in staged(folder)


def test_links_are_followed_but_never_in_circles(folder: Path, tmp_path: Path) -> None:
    put(folder, a__pov="")
    textures = tmp_path / "textures"
    textures.mkdir()
    put(textures, wood__txt="")
    (folder / "tex").symlink_to(textures)
    (folder / "loop").symlink_to(folder)
    (textures / "back").symlink_to(folder)
    (folder / "file.txt").symlink_to(textures / "wood.txt")
    assert staged(folder) == ["a.pov", "file.txt", "tex/wood.txt"]


def test_what_is_no_file_is_left_out_with_a_note(folder: Path) -> None:
    put(folder, a__pov="")
    os.mkfifo(folder / "pipe")
    (folder / "gone").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "sock"))
        found = plan(folder)
        assert files_to_stage(found, max_bytes=9, max_files=9) == ["a.pov"]
    assert found.notes == [
        "gone is a link that leads nowhere; it is left out.",
        "pipe is no regular file; it is left out.",
        "sock is no regular file; it is left out.",
    ]


def test_names_that_are_no_utf8_are_refused_by_name(folder: Path) -> None:
    put(folder, a__pov="")
    Path(os.fsdecode(os.fsencode(folder) + b"/b\xff.txt")).touch()
    with pytest.raises(SceneFault, match=r"b\\udcff\.txt' must be valid UTF-8; rename it"):
        staged(folder)


def test_too_much_names_the_largest(folder: Path) -> None:
    put(folder, a__pov="x" * 10, big__txt="x" * 3000)
    with pytest.raises(
        SceneFault, match=r"holds 2\.9 KiB, more than the limit of 100 bytes.*big\.txt \(2\.9 KiB"
    ):
        staged(folder, max_bytes=100)
    with pytest.raises(SceneFault, match=r"holds 2 files.*limit of 1.*big\.txt"):
        staged(folder, max_files=1)


def test_what_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, a__pov="", secret__txt="")
    found = plan(folder)
    monkeypatch.setattr(os, "access", lambda path, _mode: "secret" not in str(path))
    with pytest.raises(SceneFault, match=r"secret\.txt cannot be read"):
        files_to_stage(found, max_bytes=9, max_files=9)
