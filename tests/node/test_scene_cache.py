from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterray.node.scene_cache import SceneCache, SceneDamaged, link_tree
from clusterray.wire.manifest import build_manifest, scene_id
from clusterray.wire.protocol import SceneRef
from clusterray.wire.tar_writer import write_tar


class Source:
    """A scene as the head has it: a tar, its reference, and how often it was fetched."""

    def __init__(self, folder: Path, name: str, size: int) -> None:
        root = folder / f"{name} scene"
        (root / "maps").mkdir(parents=True)
        (root / "main file.pov").write_text(f"// {name}")
        (root / "maps" / "größe.png").write_bytes(b"x" * size)
        entries = build_manifest(root, ["main file.pov", "maps/größe.png"])
        self.tar = folder / f"{name}.tar"
        tar_bytes, _hash = write_tar(root, entries, self.tar)
        self.ref = SceneRef(scene_id(entries), tar_bytes)
        self.fetched = 0
        self.spoil: Callable[[bytes], bytes] | None = None
        self.spoil_times = 0

    def download(self, target: Path) -> None:
        assert not target.exists()
        data = self.tar.read_bytes()
        if self.spoil is not None and self.fetched < self.spoil_times:
            data = self.spoil(data)
        self.fetched += 1
        target.write_bytes(data)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "scenes"
    folder.mkdir(parents=True)
    return folder


def opened(scenes: Path, bound: int = 1 << 30) -> SceneCache:
    cache = SceneCache(scenes, bound)
    cache.open()
    return cache


def names(scenes: Path) -> set[str]:
    return {entry.name for entry in scenes.iterdir()} - {"boot"}


def flip_content(data: bytes) -> bytes:
    return data.replace(b"xxx", b"xyx", 1)


def cut_off(data: bytes) -> bytes:
    return data[: len(data) // 2]


def test_a_scene_is_fetched_once_and_is_read_only(tmp_path: Path, scenes: Path) -> None:
    cache, source = opened(scenes), Source(tmp_path, "a", 1000)
    for _ in range(3):
        folder = cache.acquire(source.ref, source.download)
        cache.release(source.ref.id)
    assert source.fetched == 1
    assert names(scenes) == {source.ref.id}
    assert (folder / "main file.pov").read_text() == "// a"
    modes = {path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}
    assert modes == {0o555, 0o444}


def test_a_scene_survives_a_restart(tmp_path: Path, scenes: Path) -> None:
    source = Source(tmp_path, "a", 1000)
    opened(scenes).acquire(source.ref, source.download)
    opened(scenes).acquire(source.ref, source.download)
    assert source.fetched == 1


def test_scenes_of_another_boot_are_not_trusted(tmp_path: Path, scenes: Path) -> None:
    source = Source(tmp_path, "a", 1000)
    opened(scenes).acquire(source.ref, source.download)
    (scenes / "boot").write_text("another boot")
    opened(scenes).acquire(source.ref, source.download)
    assert source.fetched == 2


def test_leftovers_of_a_stopped_fetch_go_at_the_next_start(scenes: Path) -> None:
    opened(scenes)
    name = "a" * 64
    (scenes / f"{name}.tar").touch()
    for ending in ("part", "gone"):
        (scenes / f"{name}.{ending}").mkdir()
        (scenes / f"{name}.{ending}" / "file").touch()
    opened(scenes)
    assert names(scenes) == set()


@pytest.mark.parametrize("spoil", [flip_content, cut_off])
def test_a_scene_that_arrives_damaged_once_is_fetched_again(
    tmp_path: Path, scenes: Path, spoil: Callable[[bytes], bytes]
) -> None:
    cache, source = opened(scenes), Source(tmp_path, "a", 1000)
    source.spoil, source.spoil_times = spoil, 1
    folder = cache.acquire(source.ref, source.download)
    assert source.fetched == 2
    assert (folder / "maps" / "größe.png").read_bytes() == b"x" * 1000
    assert names(scenes) == {source.ref.id}


def test_a_scene_that_arrives_damaged_twice_is_refused(tmp_path: Path, scenes: Path) -> None:
    cache, source = opened(scenes), Source(tmp_path, "a", 1000)
    source.spoil, source.spoil_times = flip_content, 2
    with pytest.raises(SceneDamaged, match="arrived damaged"):
        cache.acquire(source.ref, source.download)
    assert source.fetched == 2
    assert names(scenes) == set()


def test_a_download_that_fails_leaves_nothing(tmp_path: Path, scenes: Path) -> None:
    cache, source = opened(scenes), Source(tmp_path, "a", 1000)

    def broken(target: Path) -> None:
        target.touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cache.acquire(source.ref, broken)
    assert names(scenes) == set()
    cache.acquire(source.ref, source.download)


def test_the_least_recently_used_scene_goes_first(tmp_path: Path, scenes: Path) -> None:
    cache = opened(scenes, bound=2500)
    a, b, c = (Source(tmp_path, name, 1000) for name in "abc")
    for source in (a, b, a, c):
        cache.acquire(source.ref, source.download)
        cache.release(source.ref.id)
    assert names(scenes) == {a.ref.id, c.ref.id}
    assert (a.fetched, b.fetched, c.fetched) == (1, 1, 1)


def test_the_order_of_use_survives_a_restart(tmp_path: Path, scenes: Path) -> None:
    cache = opened(scenes)
    a, b, c = (Source(tmp_path, name, 1000) for name in "abc")
    for age, source in ((30, b), (20, a)):
        folder = cache.acquire(source.ref, source.download)
        used_at = folder.stat().st_mtime - age
        os.utime(folder, (used_at, used_at))
    cache = opened(scenes, bound=2500)
    cache.acquire(c.ref, c.download)
    assert names(scenes) == {a.ref.id, c.ref.id}


def test_a_scene_in_use_never_goes(tmp_path: Path, scenes: Path) -> None:
    cache = opened(scenes, bound=0)
    a, b = (Source(tmp_path, name, 1000) for name in "ab")
    cache.acquire(a.ref, a.download)
    cache.acquire(a.ref, a.download)
    cache.acquire(b.ref, b.download)
    cache.release(a.ref.id)
    assert names(scenes) == {a.ref.id, b.ref.id}
    cache.release(a.ref.id)
    assert names(scenes) == {b.ref.id}
    cache.release(b.ref.id)
    assert names(scenes) == set()


def test_links_let_the_scene_be_read_and_only_the_copy_be_written(
    tmp_path: Path, scenes: Path
) -> None:
    source = Source(tmp_path, "a", 10)
    scene = opened(scenes).acquire(source.ref, source.download)
    copy = tmp_path / "attempt"
    link_tree(scene, copy)
    assert (copy / "maps" / "größe.png").read_bytes() == b"x" * 10
    assert not (copy / "maps").is_symlink()
    (copy / "maps" / "new").touch()
    assert sorted(path.name for path in (scene / "maps").iterdir()) == ["größe.png"]
    shutil.rmtree(copy)
    assert (scene / "main file.pov").exists()
