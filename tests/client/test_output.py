"""The rules of -o, and a picture that is there whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from clusterray.client.output import output_file, safe_name, wished_extension
from clusterray.core.errors import LocalFault, UsageFault


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_without_o_it_stands_where_the_caller_stands(here: Path) -> None:
    out = output_file(None, "room.png", "png")
    assert (out.path, out.shown) == (here / "room.png", "room.png")


@pytest.mark.parametrize("given", ["pictures", "pictures/", "./pictures"])
def test_a_folder_takes_the_pictures_own_name(here: Path, given: str) -> None:
    (here / "pictures").mkdir()
    assert output_file(given, "room.png", "png").path == here / "pictures" / "room.png"


@pytest.mark.parametrize("given", ["a b.png", "größe.PNG", "noextension", "v1.2/x.png"])
def test_a_file_is_taken_as_it_is(here: Path, given: str) -> None:
    assert output_file(given, "room.png", "png").path == here / given


@pytest.mark.parametrize("given", ["room.jpg", "room.tga", "room.xyz", "-", ""])
def test_a_name_of_another_format_is_wrong_words(here: Path, given: str) -> None:
    with pytest.raises(UsageFault):
        output_file(given, "room.png", "png")


def test_other_names_of_a_format_are_right(here: Path) -> None:
    assert output_file("a.jpeg", "room.jpg", "jpg").path == here / "a.jpeg"
    assert output_file("a.PGM", "room.ppm", "ppm").path == here / "a.PGM"


@pytest.mark.parametrize(
    ("given", "extension"),
    [(None, None), ("a.EXR", "exr"), ("a", None), ("x.hdr/", None), ("folder.tga", None)],
)
def test_only_a_files_name_wishes_for_a_format(
    here: Path, given: str | None, extension: str | None
) -> None:
    (here / "folder.tga").mkdir()
    assert wished_extension(given) == extension


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("room.png", "room.png"),
        ("../../etc/passwd", "passwd"),
        ("a\\b.png", "b.png"),
        (".profile", "profile"),
        ("\x1b[31m.png", "png"),
        ("", "picture.png"),
        ("..", "picture.png"),
    ],
)
def test_a_name_from_elsewhere_cannot_lead_elsewhere(name: str, safe: str) -> None:
    assert safe_name(name, "png") == safe


def test_written_by_rename_with_the_umask(here: Path) -> None:
    out = output_file("room.png", "room.png", "png")
    old = os.umask(0o027)
    try:
        out.write_by(lambda target: target.write_bytes(b"new"))
    finally:
        os.umask(old)
    assert out.path.read_bytes() == b"new"
    assert stat.S_IMODE(out.path.stat().st_mode) == 0o640
    assert names(here) == {"room.png"}


def test_a_failure_leaves_the_old_picture_and_nothing_else(here: Path) -> None:
    (here / "room.png").write_bytes(b"old")

    def fail(target: Path) -> None:
        target.write_bytes(b"half")
        raise LocalFault(f"cannot write {target}: No space left on device")

    with pytest.raises(LocalFault, match=r"cannot write room\.png: No space left on device"):
        output_file("room.png", "room.png", "png").write_by(fail)
    assert (here / "room.png").read_bytes() == b"old"
    assert names(here) == {"room.png"}


def test_a_link_stays_a_link(here: Path) -> None:
    (here / "real").mkdir()
    (here / "room.png").symlink_to("real/room.png")
    output_file(None, "room.png", "png").write_by(lambda target: target.write_bytes(b"x"))
    assert (here / "room.png").is_symlink()
    assert (here / "real" / "room.png").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("given", "partial"),
    [
        (None, "room.partial.png"),
        ("x/view.v2.png", "x/view.v2.partial.png"),
        ("x/", "x/room.partial.png"),
        ("view", "view.partial"),
        ("view.partial.png", "view.partial.png"),
    ],
)
def test_a_partial_picture_never_has_the_finished_ones_name(
    here: Path, given: str | None, partial: str
) -> None:
    (here / "x").mkdir()
    (here / "room.png").symlink_to("x/elsewhere.png")
    out = output_file(given, "room.png", "png").partial()
    assert (out.path, out.shown) == (here / partial, partial)


def test_a_missing_folder_is_named_before_anything_is_rendered(here: Path) -> None:
    with pytest.raises(LocalFault, match=r"nowhere/room\.png.*no folder"):
        output_file("nowhere/room.png", "room.png", "png").check_writable()


def test_no_device_is_ever_replaced(here: Path) -> None:
    with pytest.raises(LocalFault, match="no regular file"):
        output_file("/dev/null", "room.png", "png").check_writable()
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_check_leaves_nothing(here: Path) -> None:
    output_file(None, "room.png", "png").check_writable()
    assert names(here) == set()
