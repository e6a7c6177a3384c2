from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from clusterray.node.scene_cache import SceneCache, SceneDamaged, link_tree
from clusterray.wire.manifest import build_manifest, canonical_manifest, scene_id
from clusterray.wire.protocol import SceneRef
from clusterray.wire.tar_writer import write_tar


class Source:
    """A scene as the head has it: a tar, its reference, and what was fetched of it."""

    def __init__(
        self, folder: Path, name: str, size: int, more: Mapping[str, bytes] | None = None
    ) -> None:
        root = folder / f"{name} scene"
        files = {
            "main file.pov": f"// {name}".encode(),
            "maps/größe.png": b"x" * size,
            **(more or {}),
        }
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        self.files = files
        entries = build_manifest(root, list(files))
        self.tar = folder / f"{name}.tar"
        tar_bytes, _hash = write_tar(root, entries, self.tar)
        self.manifest = canonical_manifest(entries)
        self.ref = SceneRef(scene_id(entries), tar_bytes, len(self.manifest))
        self.fetched = 0
        self.sizes: list[tuple[str, int]] = []
        self.spoil: Callable[[bytes], bytes] | None = None
        self.spoil_times = 0

    def download(self, name: str, target: Path, size: int) -> None:
        assert not target.exists()
        name, _, ranges = name.partition(";")
        data = {"scene.tar": self.tar.read_bytes(), "manifest.json": self.manifest}[name]
        if ranges:
            data = b"".join(data[start:end] for start, end in ends_of(ranges))
        assert len(data) == size
        if self.spoil is not None and self.fetched < self.spoil_times:
            data = self.spoil(data)
        if name == "scene.tar":
            self.fetched += 1
        self.sizes.append((name, size))
        target.write_bytes(data)


def ends_of(ranges: str) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in (each.split("-") for each in ranges.split(","))]


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
    """What is there but for the manifests, which belong to scenes that are."""
    found = {entry.name for entry in scenes.iterdir()} - {"boot"}
    manifests = {name for name in found if name.endswith(".json")}
    assert {name.removesuffix(".json") for name in manifests} <= found
    return found - manifests


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

    def broken(name: str, target: Path, size: int) -> None:
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


# ---------------------------------------------------------------- only what is lacking

BULK = {f"bulk/{number}.inc": bytes([number]) * 50_000 for number in range(8)}


def test_of_a_scene_that_differs_in_one_file_only_that_file_travels(
    tmp_path: Path, scenes: Path
) -> None:
    cache = opened(scenes)
    first, second = Source(tmp_path, "a", 1000, BULK), Source(tmp_path, "b", 1000, BULK)
    cache.acquire(first.ref, first.download)
    folder = cache.acquire(second.ref, second.download)
    assert {path: (folder / path).read_bytes() for path in second.files} == second.files
    assert sum(size for name, size in second.sizes if name == "scene.tar") == 1024
    assert names(scenes) == {first.ref.id, second.ref.id}


def test_a_file_under_another_name_does_not_travel_again(tmp_path: Path, scenes: Path) -> None:
    moved = {path.replace("bulk", "other"): content for path, content in BULK.items()}
    cache = opened(scenes)
    first, second = Source(tmp_path, "a", 1000, BULK), Source(tmp_path, "b", 1000, moved)
    cache.acquire(first.ref, first.download)
    folder = cache.acquire(second.ref, second.download)
    assert {path: (folder / path).read_bytes() for path in second.files} == second.files
    assert sum(size for _name, size in second.sizes) < 10_000


def test_what_is_here_outlives_the_scene_it_came_with(tmp_path: Path, scenes: Path) -> None:
    cache = opened(scenes, bound=0)
    first, second = Source(tmp_path, "a", 1000, BULK), Source(tmp_path, "b", 1000, BULK)
    cache.acquire(first.ref, first.download)
    folder = cache.acquire(second.ref, second.download)
    cache.release(first.ref.id)
    assert names(scenes) == {second.ref.id}
    assert {path: (folder / path).read_bytes() for path in second.files} == second.files


def test_what_is_here_counts_after_a_restart_too(tmp_path: Path, scenes: Path) -> None:
    first, second = Source(tmp_path, "a", 1000, BULK), Source(tmp_path, "b", 1000, BULK)
    opened(scenes).acquire(first.ref, first.download)
    opened(scenes).acquire(second.ref, second.download)
    assert sum(size for _name, size in second.sizes) < 10_000


def test_a_scene_that_shares_little_is_fetched_whole(tmp_path: Path, scenes: Path) -> None:
    cache = opened(scenes)
    first, second = Source(tmp_path, "a", 1000), Source(tmp_path, "b", 1000, BULK)
    cache.acquire(first.ref, first.download)
    cache.acquire(second.ref, second.download)
    assert second.sizes[1:] == [("scene.tar", second.ref.tar_bytes)]


def test_a_head_that_offers_no_manifest_sends_the_whole(tmp_path: Path, scenes: Path) -> None:
    cache = opened(scenes)
    first, second = Source(tmp_path, "a", 1000, BULK), Source(tmp_path, "b", 1000, BULK)
    cache.acquire(first.ref, first.download)
    cache.acquire(SceneRef(second.ref.id, second.ref.tar_bytes), second.download)
    assert second.sizes == [("scene.tar", second.ref.tar_bytes)]


@pytest.mark.parametrize("what", ["held file", "held manifest", "new manifest", "new file"])
def test_what_is_damaged_is_fetched_whole(tmp_path: Path, scenes: Path, what: str) -> None:
    cache = opened(scenes)
    first, second = Source(tmp_path, "a", 1000, BULK), Source(tmp_path, "b", 1000, BULK)
    folder = cache.acquire(first.ref, first.download)
    if what == "held file":
        harmed = folder / "bulk" / "3.inc"
        harmed.chmod(0o600)
        harmed.write_bytes(b"?" * 50_000)
    elif what == "held manifest":
        (scenes / f"{first.ref.id}.json").write_text("[[1")
    elif what == "new manifest":
        second.manifest = second.manifest.replace(b"3.inc", b"4.inc")
    else:
        second.spoil, second.spoil_times = lambda data: data.replace(b"// b", b"// c"), 1
    folder = cache.acquire(second.ref, second.download)
    assert {path: (folder / path).read_bytes() for path in second.files} == second.files
    assert second.sizes[-1] == ("scene.tar", second.ref.tar_bytes)


def test_many_scattered_files_come_by_several_commands_of_bounded_length(
    tmp_path: Path, scenes: Path
) -> None:
    def content(number: int, scene: str) -> bytes:
        return f"{scene if number % 2 else ''}{number}".encode().ljust(40_000)

    first, second = (
        Source(tmp_path, name, 1000, {f"f/{n:03}": content(n, name) for n in range(200)})
        for name in "ab"
    )
    cache, asked = opened(scenes), []

    def download(name: str, target: Path, size: int) -> None:
        asked.append(name)
        second.download(name, target, size)

    cache.acquire(first.ref, first.download)
    folder = cache.acquire(second.ref, download)
    assert {path: (folder / path).read_bytes() for path in second.files} == second.files
    assert len(asked) > 2
    assert max(len(name) for name in asked) < 2000
