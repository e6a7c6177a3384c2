"""clusterray-submit before it has a head: wrong words, faults of the folder, no token."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterray.cli.submit import main, read_words, region, split_words
from clusterray.core.errors import UsageFault
from clusterray.core.model import Rect
from clusterray.wire.trust import JoinToken, new_secret
from tests.cli.commands import Running, environment, head_process, run, running, scene_folder

TOKEN = JoinToken("127.0.0.1", 1, "submit", "", new_secret()).encode()
ORDINARY = (
    # Root without the right to ignore file modes: these tests are about that refusal.
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
)
needs_ordinary_rights = pytest.mark.skipif(
    bool(ORDINARY) and shutil.which("setpriv") is None, reason="as root this needs setpriv"
)


@pytest.fixture(scope="module", autouse=True)
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A submit to a head that is away, begun early because it takes its ten seconds."""
    here = tmp_path_factory.mktemp("away")
    scene_folder(here)
    with running("clusterray-submit", "scene", "--join", TOKEN, cwd=here) as command:
        yield command


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("words", "ours", "povray"),
    [
        (["s/", "--local"], ["s/", "--local=one"], []),
        (["--local", "s/"], ["--local=one", "s/"], []),
        (["--local", "2", "s/"], ["--local=2", "s/"], []),
        (["--local", "2x"], ["--local=one", "2x"], []),
        (["--verify", "s/"], ["--verify=2", "s/"], []),
        (["--verify", "5", "s/"], ["--verify=5", "s/"], []),
        (["s/", "--verify", "all"], ["s/", "--verify=all"], []),
        (["--verify", "--local", "3", "s/"], ["--verify=2", "--local=3", "s/"], []),
        (["s/", "--", "+A", "--", "--local", "2"], ["s/"], ["+A", "--", "--local", "2"]),
    ],
)
def test_words_are_split(words: list[str], ours: list[str], povray: list[str]) -> None:
    assert split_words(words) == (ours, povray)


def test_all_words_are_understood() -> None:
    line = "--width 80 scene --height 60 --region 0,1,2,3 -o out.png --local 3 --verify all"
    chosen = read_words(split_words(line.split())[0])
    assert chosen.verify == "all"
    assert read_words(split_words(["scene", "--verify"])[0]).verify == 2
    assert read_words(["scene", "--verify=0"]).verify == 0
    assert read_words(["scene"]).verify is None, "job.yaml says it"
    assert (chosen.scene, chosen.width, chosen.height, chosen.local) == ("scene", 80, 60, 3)
    assert (chosen.region, chosen.out, chosen.detach) == (Rect(0, 1, 2, 3), "out.png", False)


@pytest.mark.parametrize("text", ["1,2,3", "2,0,2,5", "0,5,3,5", "a,b,c,d", "-1,0,2,2", "0,0,1,1,"])
def test_what_is_no_region(text: str) -> None:
    with pytest.raises(ValueError, match="is "):
        region(text)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "which SCENE"),
        ("a b", "'b' is one word too many"),
        ("a --width 0", "--width: '0' is not a whole number"),
        ("a --width x", "--width: 'x' is not a whole number"),
        ("a --widht 5", "--widht is no option"),
        ("a --wid 5", "--wid is no option"),
        ("a --region 5,5,1,1", "--region: '5,5,1,1' is empty"),
        ("a +W640", "clusterray-submit SCENE -- +W640"),
        ("+W640 a", "clusterray-submit SCENE -- +W640"),
        ("a -W640", "clusterray-submit SCENE -- -W640"),
        ("a --local 0", "--local: '0' is not a whole number from 1"),
        ("a --verify=x", "--verify: 'x' is neither all nor a whole number from 0 to 100000"),
        ("a --local --join x", "leave out --join"),
        ("a --local --detach", "leave out --detach"),
        ("a --detach -o x.png", "clusterray fetch"),
        ("a --max-scene-bytes 0", "--max-scene-bytes: '0' is not a size"),
        ("a -o", "-o/--output: expected one argument"),
    ],
)
def test_wrong_words(words: str, told: str) -> None:
    with pytest.raises(UsageFault) as caught:
        read_words(split_words(words.split())[0])
    assert told in str(caught.value)


def test_a_limit_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERRAY_MAX_SCENE_FILES", "7")
    assert read_words(["a"]).max_scene_files == 7
    monkeypatch.setenv("CLUSTERRAY_MAX_SCENE_FILES", "x")
    with pytest.raises(UsageFault, match="'x' is not a whole number"):
        read_words(["a"])


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_end_well(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([word])
    assert caught.value.code == 0
    assert "clusterray-submit" in capsys.readouterr().out


# ---------------------------------------------------------------- exit codes before a head


def exits(here: Path, code: int, told: str, *words: str | Path) -> None:
    ended = run("clusterray-submit", *words, cwd=here)
    assert told in ended.stderr
    assert (ended.code, ended.stdout) == (code, "")
    assert "Traceback" not in ended.stderr


def test_wrong_words_are_2(tmp_path: Path) -> None:
    exits(tmp_path, 2, "clusterray-submit: ", "--nonsense")


def test_a_missing_scene_is_2(tmp_path: Path) -> None:
    exits(tmp_path, 2, "no such/scene", "no such/scene", "--join", TOKEN)


def test_a_forbidden_option_is_2(tmp_path: Path) -> None:
    scene_folder(tmp_path)
    exits(tmp_path, 2, "+SR10", "scene", "--join", TOKEN, "--", "+SR10")


def test_another_format_is_2(tmp_path: Path) -> None:
    scene_folder(tmp_path)
    words = ("scene", "-o", "out.jpg", "--join", TOKEN, "--", "+FN")
    exits(tmp_path, 2, "-o out.jpg: the picture is a .png, not a .jpg", *words)


def test_an_empty_folder_is_3(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    exits(tmp_path, 3, "empty", "empty", "--join", TOKEN)


def test_two_scenes_and_no_hint_is_3_with_both_named(tmp_path: Path) -> None:
    scene_folder(tmp_path, "two", one="", other="")
    ended = run("clusterray-submit", "two", "--join", TOKEN, cwd=tmp_path)
    assert ended.code == 3
    assert "one.pov" in ended.stderr
    assert "other.pov" in ended.stderr


def test_the_home_folder_is_3(tmp_path: Path) -> None:
    scene_folder(tmp_path, "ann")
    home = tmp_path / "ann"
    ended = run("clusterray-submit", home, "--join", TOKEN, cwd=tmp_path, env=environment(home))
    assert ended.code == 3
    assert "home" in ended.stderr


def test_too_large_a_folder_is_3_with_the_largest_named(tmp_path: Path) -> None:
    scene = scene_folder(tmp_path)
    (scene / "texture.png").write_bytes(bytes(5000))
    words = ("scene", "--join", TOKEN, "--max-scene-bytes", "4k")
    exits(tmp_path, 3, "texture.png", *words)


@needs_ordinary_rights
def test_an_unreadable_folder_is_3(tmp_path: Path) -> None:
    scene_folder(tmp_path).chmod(0)
    try:
        ended = run("clusterray-submit", "scene", "--join", TOKEN, cwd=tmp_path, prefix=ORDINARY)
    finally:
        (tmp_path / "scene").chmod(0o700)
    assert ended.code == 3
    assert "scene" in ended.stderr
    assert "Permission denied" in ended.stderr


@needs_ordinary_rights
def test_an_unreadable_file_is_3_and_named(tmp_path: Path) -> None:
    (scene_folder(tmp_path) / "texture.png").touch(0)
    with head_process(tmp_path / "state") as head:
        words = ("scene", "--join", head.token("submit"))
        ended = run("clusterray-submit", *words, cwd=tmp_path, prefix=ORDINARY)
    assert ended.code == 3
    assert "texture.png" in ended.stderr
    assert "Permission denied" in ended.stderr


@needs_ordinary_rights
def test_a_folder_that_may_not_be_written_is_1(tmp_path: Path) -> None:
    scene_folder(tmp_path)
    (tmp_path / "out").mkdir(mode=0o555)
    words = ("scene", "--join", TOKEN, "-o", "out")
    ended = run("clusterray-submit", *words, cwd=tmp_path, prefix=ORDINARY)
    assert ended.code == 1
    assert "cannot write out/room.png: Permission denied" in ended.stderr


def test_a_place_that_is_no_folder_is_1(tmp_path: Path) -> None:
    scene_folder(tmp_path)
    exits(tmp_path, 1, "nowhere/a.png", "scene", "--join", TOKEN, "-o", "nowhere/a.png")


def test_a_full_disk_is_1_before_anything_is_rendered(tmp_path: Path, tiny_disk: Path) -> None:
    scene_folder(tmp_path)
    with (
        (tiny_disk / "ballast").open("wb", buffering=0) as ballast,
        pytest.raises(OSError, match="No space"),
    ):
        while True:
            ballast.write(bytes(4096))
    exits(tmp_path, 1, "No space left", "scene", "--join", TOKEN, "-o", tiny_disk)
    assert [entry.name for entry in tiny_disk.iterdir()] == ["ballast"]


# ---------------------------------------------------------------- no head


@pytest.mark.parametrize(
    ("join", "told"),
    [
        ("", "no token"),
        ("cr1-nonsense", "damaged"),
        ("no/such/file", "nor a file"),
        (JoinToken("127.0.0.1", 1, "node", "", new_secret()).encode(), "is a node's"),
    ],
)
def test_a_bad_token_is_5(tmp_path: Path, join: str, told: str) -> None:
    scene_folder(tmp_path)
    words = ("scene", "--join", join) if join else ("scene",)
    ended = run("clusterray-submit", *words, cwd=tmp_path)
    assert (ended.code, ended.stdout) == (5, "")
    assert "cannot reach a head: " in ended.stderr
    assert told in ended.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["scene"]


def test_a_head_that_is_away_is_5_after_ten_seconds(away: Running) -> None:
    ended = away.ended()
    assert (ended.code, ended.stdout) == (5, "")
    assert "cannot reach a head: nobody answered at 127.0.0.1:1 for 10 s" in ended.stderr
    assert "Connection refused" in ended.stderr
