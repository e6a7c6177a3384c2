"""Files from outside the folder, secrets, and what only-needed sends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clusterray.core.errors import SceneFault, UsageFault
from clusterray.core.model import Rect
from clusterray.povray.command import render_argv
from clusterray.povray.scene import JobPlan, files_to_stage, plan_job


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with a scene in it and things of the person's beside it."""
    home = tmp_path.resolve() / "ann"
    put(home / "secret" / "diary.txt", home / "textures" / "x.png", home / "lib" / "deep" / "w.inc")
    put(home / "lib" / "unneeded.inc", home / ".ssh" / "id_ed25519")
    (home / "scenes" / "room").mkdir(parents=True)
    return home


@pytest.fixture
def room(home: Path) -> Path:
    return home / "scenes" / "room"


def put(*paths: Path, text: str = "") -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def plan(room: Path, text: str, *options: str, only_needed: bool = False) -> JobPlan:
    put(room / "room.pov", text=text)
    return plan_job(
        room / "room.pov",
        options,
        width=None,
        height=None,
        region=None,
        home=Path("/nonexistent"),
        only_needed=only_needed,
    )


def staged(found: JobPlan) -> list[str]:
    return files_to_stage(found, max_bytes=1 << 20, max_files=1000)


# -------------------------------------------------------------------- what travels


def test_only_what_was_found_travels_if_that_is_wanted(room: Path) -> None:
    put(room / "a.inc", room / "b.inc", room / "huge.bin", room / "maps" / "m.png")
    text = '#include "a.inc" image_map { png "maps/m" } #include "colors.inc"'
    assert staged(plan(room, text)) == ["a.inc", "b.inc", "huge.bin", "maps/m.png", "room.pov"]
    only = plan(room, text, only_needed=True)
    assert staged(only) == ["a.inc", "maps/m.png", "room.pov"]
    assert only.notes == []


def test_job_yaml_may_say_so(room: Path) -> None:
    put(room / "room.pov", room / "other.txt")
    for word, files in (
        ("needed", ["room.pov"]),
        ("folder", ["job.yaml", "other.txt", "room.pov"]),
    ):
        put(room / "job.yaml", text=f"files: {word}\n")
        found = plan_job(room, [], width=None, height=None, region=None, home=Path("/nonexistent"))
        assert staged(found) == files
    put(room / "job.yaml", text="files: some\n")
    with pytest.raises(SceneFault, match="files: some: there are folder and needed"):
        plan_job(room, [], width=None, height=None, region=None, home=Path("/nonexistent"))


def test_a_needed_file_travels_from_where_nothing_else_does(room: Path) -> None:
    put(room / ".git" / "odd.inc", room / ".git" / "config", room / "old.inc~")
    text = '#include ".git/odd.inc" #include "old.inc~"'
    assert staged(plan(room, text)) == [".git/odd.inc", "old.inc~", "room.pov"]


def test_the_header_travels(room: Path) -> None:
    put(room / "h.inc", text='#include "deep.inc"')
    put(room / "deep.inc")
    only = plan(room, "", "+HIh.inc", only_needed=True)
    assert staged(only) == ["deep.inc", "h.inc", "room.pov"]


# -------------------------------------------------------------------- names that climb


def test_a_name_that_climbs_moves_the_root_and_takes_nothing_else(home: Path, room: Path) -> None:
    put(room / "plain.txt")
    found = plan(room, '\nimage_map { png "../../textures/x.png" }')
    assert (found.root, found.spec.input, found.spec.start) == (
        home,
        "scenes/room/room.pov",
        "scenes/room",
    )
    assert staged(found) == ["scenes/room/plain.txt", "scenes/room/room.pov", "textures/x.png"]
    assert found.notes == [
        f"Taken along from outside the folder: {home}/textures/x.png (room.pov:2)."
    ]
    assert found.elsewhere == {}


def test_library_paths_and_headers_move_along(home: Path, room: Path) -> None:
    put(room / "inc" / "a.inc", room / "h.inc")
    found = plan(room, '#include "../../lib/deep/w.inc" #include "a.inc"', "+Linc", "+HIh.inc")
    assert found.spec.library_paths == ("scenes/room/inc",)
    argv = render_argv(
        found.spec, Rect(0, 0, 9, 9), threads=1, povray="povray", output=Path("/o.png")
    )
    assert {'Library_Path="inc"', 'Include_Header="h.inc"', '+I"room.pov"'} <= set(argv)
    assert "scenes/room/inc/a.inc" in staged(found)


def test_a_name_that_climbs_and_comes_back_stays(room: Path) -> None:
    put(room / "a.inc")
    found = plan(room, '#include "../room/a.inc"')
    assert (found.root, staged(found), found.notes) == (room, ["a.inc", "room.pov"], [])


# -------------------------------------------------------------------- library folders elsewhere


def test_a_library_elsewhere_is_taken_as_far_as_it_is_needed(home: Path, room: Path) -> None:
    found = plan(room, '#include "deep/w.inc"', f"+L{home}/lib")
    assert found.root == room
    assert found.spec.library_paths == ("clusterray-outside/1",)
    assert staged(found) == ["clusterray-outside/1/deep/w.inc", "room.pov"]
    assert found.elsewhere == {"clusterray-outside/1/deep/w.inc": home / "lib/deep/w.inc"}
    assert "lib/deep/w.inc (room.pov:1)" in found.notes[0]


def test_the_light_of_a_file_from_elsewhere_counts(home: Path, room: Path) -> None:
    put(home / "lib" / "light.inc", text="global_settings { photons { spacing 0.1 } }")
    found = plan(room, '#include "light.inc"', f"+L{home}/lib").spec
    assert found.photon_files == ("clusterray-outside/1/light.inc",)
    found = plan(room, '#include "../../lib/light.inc"').spec
    assert found.photon_files == ("lib/light.inc",)


def test_a_relative_library_in_an_ini_and_a_climbing_name_together(home: Path, room: Path) -> None:
    put(room / "s.ini", text="Input_File_Name=room.pov\r\nLibrary_Path=../../lib\r\n")
    put(room / "room.pov", text='#include "deep/w.inc" image_map { png "../../textures/x.png" }')
    found = plan_job(
        room / "s.ini", [], width=None, height=None, region=None, home=Path("/nonexistent")
    )
    assert found.root == home
    assert found.spec.library_paths == ("scenes/room/clusterray-outside/1",)
    assert staged(found) == [
        "scenes/room/clusterray-outside/1/deep/w.inc",
        "scenes/room/room.pov",
        "scenes/room/s.ini",
        "textures/x.png",
    ]


def test_a_header_elsewhere(home: Path, room: Path) -> None:
    found = plan(room, "", f"+HI{home}/lib/unneeded.inc")
    assert found.spec.value("Include_Header") == "clusterray-outside/1/unneeded.inc"
    assert staged(found) == ["clusterray-outside/1/unneeded.inc", "room.pov"]


def test_an_ini_of_a_library_elsewhere_is_read(home: Path, room: Path) -> None:
    put(home / "lib" / "size.ini", text="Width=77")
    assert plan(room, "", f"+L{home}/lib", "size").spec.width == 77


def test_the_reserved_folder_must_be_free(home: Path, room: Path) -> None:
    put(room / "clusterray-outside" / "x")
    assert "clusterray-outside/x" in staged(plan(room, "", f"+L{home}/lib"))
    with pytest.raises(SceneFault, match="clusterray-outside is in the way"):
        plan(room, '#include "deep/w.inc"', f"+L{home}/lib")


# -------------------------------------------------------------------- links


def test_a_link_out_of_the_folder_is_followed_and_said(home: Path, room: Path) -> None:
    (room / "x.png").symlink_to(home / "textures" / "x.png")
    found = plan(room, 'image_map { png "x.png" }')
    assert staged(found) == ["room.pov", "x.png"]
    assert found.notes == [
        f"Taken along from outside the folder: {home}/textures/x.png (room.pov:1)."
    ]


def test_a_link_to_secrets_is_left_out_and_refused_if_needed(home: Path, room: Path) -> None:
    (room / "k.inc").symlink_to(home / ".ssh" / "id_ed25519")
    (room / "etc").symlink_to("/etc")
    found = plan(room, "")
    assert staged(found) == ["room.pov"]
    assert len([note for note in found.notes if "no scene is made of" in note]) == 2
    with pytest.raises(SceneFault, match=r"no file of a scene is taken from there"):
        plan(room, '#if (0) #include "k.inc" #end')


# -------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "text",
    [
        '#include "../../.ssh/id_ed25519"',
        '#if (0) #fopen F "../../.ssh/id_ed25519" read #end',
        '#fopen F concat("../../.ssh/id_", str(clock, 0, 0)) read',
        f'#fopen F "{"../" * 20}etc/hostname" read',
    ],
)
def test_secrets_are_not_taken_along(room: Path, text: str) -> None:
    with pytest.raises(SceneFault, match="no file of a scene is taken from there") as caught:
        plan(room, f"\n{text}")
    assert (caught.value.file, caught.value.line) == ("room.pov", 2)


def test_a_secret_folder_is_no_library(home: Path, room: Path) -> None:
    for folder in (home / ".ssh", Path("/etc")):
        with pytest.raises(UsageFault, match="no file of a scene is taken from"):
            plan(room, "", f"+L{folder}")


def test_a_scene_that_is_hidden_itself_may_use_its_neighbours(home: Path) -> None:
    room = home / ".cache" / "job" / "room"
    room.mkdir(parents=True)
    put(room.parent / "tex.png", home / ".cache" / ".keys" / "k")
    assert staged(plan(room, 'image_map { png "../tex.png" }')) == ["room/room.pov", "tex.png"]
    with pytest.raises(SceneFault, match="is taken from there"):
        plan(room, '#include "../../.keys/k"')


def test_an_absolute_name_is_refused_with_the_way_out(home: Path, room: Path) -> None:
    text = f'image_map {{ png "{home}/textures/x.png" }}'
    with pytest.raises(SceneFault, match=r"an absolute path.*copy the file into the folder"):
        plan(room, text)
    found = plan(room, f"#if (0) {text} #end")
    assert len(found.notes) == 1
    assert found.notes[0].startswith(f"room.pov:1 may use the image {home}/textures/x.png, an abs")
    # POV-Ray's own are on every machine.
    own = plan(room, '#include "/usr/share/povray-3.7/include/colors.inc"')
    assert (own.notes, staged(own)) == ([], ["room.pov"])


def test_a_missing_file_is_a_fault_with_place_before_anything_is_sent(room: Path) -> None:
    put(room / "Walls.inc")
    with pytest.raises(SceneFault) as caught:
        plan(room, '\n\n#include "walls.inc"\n#include "a.inc"\n\nimage_map { png "b.png" }')
    assert str(caught.value) == (
        "room.pov:3: includes walls.inc, which is nowhere in the folder nor among POV-Ray's own "
        "files; there is Walls.inc, and capital letters count there "
        "(likewise: room.pov:4, room.pov:6)"
    )
    assert caught.value.exit_code == 3


def test_a_file_that_may_be_missing_is_a_note_once(room: Path) -> None:
    found = plan(room, '#if (0) #include "a.inc" #include "a.inc" #end')
    assert found.notes == [
        "room.pov:1 may include a.inc, which is nowhere in the folder nor among POV-Ray's own "
        "files."
    ]
    many = "".join(f'\n#include "{number}.inc"' for number in range(50))
    found = plan(room, f"#if (0) {many} #end")
    assert (len(found.notes), found.notes[-1]) == (21, "30 more places name files not found.")


def test_a_name_of_which_nothing_is_known_is_said_where_it_matters(room: Path) -> None:
    text = '#fopen F "n" read #read (F, N) image_map { png N }'
    put(room / "n")
    assert plan(room, text).notes == []
    assert "put together while parsing" in plan(room, text, only_needed=True).notes[0]


def test_a_file_of_one_s_own_among_povray_s_travels(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup = "clusterray.povray.lookup.DEBIAN_LIBRARY_PATHS"
    put(tmp_path / "share" / "mine.inc")
    monkeypatch.setattr(lookup, (os.path.realpath(tmp_path / "share"),))
    found = plan(room, '#include "mine.inc"')
    assert found.spec.library_paths == ("clusterray-outside/1",)
    assert staged(found) == ["clusterray-outside/1/mine.inc", "room.pov"]
