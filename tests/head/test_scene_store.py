"""The scene store against a real disk, with the submitter's own packer as its client."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from clusterray.core.errors import LocalFault, SceneFault
from clusterray.core.model import SceneId
from clusterray.head import scene_sources
from clusterray.head.scene_store import SceneStore
from clusterray.wire.archive import unpack_tar
from clusterray.wire.manifest import build_manifest, canonical_manifest, scene_id
from clusterray.wire.protocol import Entry
from clusterray.wire.scene_names import ArchiveLimits
from clusterray.wire.tar_writer import write_tar

LIMITS = ArchiveLimits(max_bytes=100 << 20, max_files=1000)
ROOM = {"room.pov": b'#include "inc/lamp.inc"', "inc/lamp.inc": b"lamp", "wall.png": b"w" * 5000}
HALL = {"hall.pov": b"hall", "maps/wall.png": b"w" * 5000, "inc/lamp.inc": b"lamp"}


def nothing() -> None:
    """A tick of somebody who has nothing else to do."""


class Client:
    """A submitter with a scene folder."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self.root = folder
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        self.entries = build_manifest(folder, list(files))
        self.scene = SceneId(scene_id(self.entries))

    def send(self, store: SceneStore) -> Path | None:
        """Upload what the store lacks; None if it has all."""
        missing = store.missing(self.entries)
        if not missing:
            return None
        upload = store.begin_upload(self.scene)
        write_tar(self.root, [self.entries[index] for index in missing], upload)
        return upload

    def put(self, store: SceneStore, tick: Callable[[], None] = nothing) -> None:
        store.assemble(self.scene, self.entries, self.send(store), tick)


@pytest.fixture
def store(tmp_path: Path) -> SceneStore:
    return SceneStore(tmp_path / "scenes", LIMITS, 1 << 30)


@pytest.fixture
def room(tmp_path: Path) -> Client:
    return Client(tmp_path / "room", ROOM)


@pytest.fixture
def hall(tmp_path: Path) -> Client:
    return Client(tmp_path / "hall", HALL)


def reopened(store: SceneStore, limits: ArchiveLimits = LIMITS) -> SceneStore:
    return SceneStore(store._folder, limits, store._max_bytes)


def leftovers(store: SceneStore) -> list[str]:
    """Everything in the store's folder that is no scene of its index."""
    names = {str(p.relative_to(store._folder)) for p in store._folder.rglob("*")}
    expected = {"uploads"}
    for scene in store._scenes:
        expected |= {scene, f"{scene}/manifest.json", f"{scene}/scene.tar"}
    return sorted(names ^ expected)


def check_tar(store: SceneStore, client: Client, target: Path) -> None:
    assert unpack_tar(store.tar_path(client.scene), target, LIMITS) == client.entries


# ---------------------------------------------------------------- taking scenes in


def test_a_new_scene_is_wanted_whole_and_stored(
    store: SceneStore, room: Client, tmp_path: Path
) -> None:
    assert not store.has(room.scene)
    assert store.missing(room.entries) == [0, 1, 2]
    room.put(store)
    assert store.has(room.scene)
    assert store.missing(room.entries) == []
    assert store.reference(room.scene).tar_bytes == store.tar_path(room.scene).stat().st_size
    check_tar(store, room, tmp_path / "out")
    manifest = store.tar_path(room.scene).with_name("manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() == room.scene
    assert leftovers(store) == []


def test_only_unknown_content_is_sent_and_the_tar_is_whole_all_the_same(
    store: SceneStore, room: Client, hall: Client, tmp_path: Path
) -> None:
    room.put(store)
    lacking = [hall.entries[index].path for index in store.missing(hall.entries)]
    assert lacking == ["hall.pov"]
    hall.put(store)
    check_tar(store, hall, tmp_path / "out")


def test_a_scene_of_known_content_needs_no_upload(
    store: SceneStore, room: Client, tmp_path: Path
) -> None:
    room.put(store)
    moved = Client(tmp_path / "moved", {f"sub/{name}": text for name, text in ROOM.items()})
    assert moved.send(store) is None
    moved.put(store)
    check_tar(store, moved, tmp_path / "out")


def test_content_that_is_in_a_scene_twice_is_sent_once(store: SceneStore, tmp_path: Path) -> None:
    twins = Client(tmp_path / "twins", {"a.inc": b"same", "b.inc": b"same", "c.inc": b"other"})
    assert store.missing(twins.entries) == [0, 2]
    twins.put(store)
    check_tar(store, twins, tmp_path / "out")


def test_empty_files_long_names_and_modes_survive(store: SceneStore, tmp_path: Path) -> None:
    names = ["empty", "ä/ö ü.inc", "/".join(["deep" * 20] * 10) + ".inc", "run.sh"]
    folder = tmp_path / "odd"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() if name != "empty" else b"")
    (folder / "run.sh").chmod(0o755)
    odd = Client(folder, {})
    odd.entries = build_manifest(folder, names)
    odd.scene = SceneId(scene_id(odd.entries))
    odd.put(store)
    check_tar(store, odd, tmp_path / "out")
    assert reopened(store).has(odd.scene)


def test_the_same_scene_gives_the_same_bytes_whatever_was_there(
    tmp_path: Path, room: Client, hall: Client
) -> None:
    alone, after = (SceneStore(tmp_path / name, LIMITS, 1 << 30) for name in ("one", "two"))
    hall.put(alone)
    room.put(after)
    hall.put(after)
    assert alone.tar_path(hall.scene).read_bytes() == after.tar_path(hall.scene).read_bytes()


def test_assembling_again_is_nothing_to_do_and_deletes_the_upload(
    store: SceneStore, room: Client
) -> None:
    first, second = room.send(store), room.send(store)
    assert first is not None
    assert second is not None
    assert first != second
    store.assemble(room.scene, room.entries, first, nothing)
    before = store.tar_path(room.scene).stat()
    store.assemble(room.scene, room.entries, second, nothing)
    assert store.tar_path(room.scene).stat().st_ino == before.st_ino
    assert leftovers(store) == []


def test_two_assembles_of_one_scene_at_once_both_succeed(
    store: SceneStore, room: Client, tmp_path: Path
) -> None:
    uploads = [room.send(store) for _ in range(2)]
    together = threading.Barrier(2, timeout=10)
    met = threading.local()
    failures: list[BaseException] = []

    def meet_once() -> None:
        if not getattr(met, "done", False):
            met.done = True
            together.wait()

    def assemble(upload: Path | None) -> None:
        try:
            store.assemble(room.scene, room.entries, upload, meet_once)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=assemble, args=(upload,)) for upload in uploads]
    with pytest.MonkeyPatch.context() as patch:
        # Ticking at once, both are in the middle of the work when they meet.
        patch.setattr(scene_sources, "TICK_BYTES", 1)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    check_tar(store, room, tmp_path / "out")
    assert leftovers(store) == []


def test_ticks_come_at_least_each_four_mebibytes(
    store: SceneStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real_fsync = os.fsync

    def fsync(fd: int) -> None:
        synced.append(fd)
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    big = Client(tmp_path / "big", {"one.df3": os.urandom(9 << 20), "two.df3": b"2" * (30 << 20)})
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(next(store._folder.glob(".part-*/scene.tar")).stat().st_size)

    big.put(store, tick)
    gaps = [after - before for before, after in zip([0, *ticks], ticks, strict=False)]
    assert len(ticks) >= 9
    assert max(gaps) <= 4 << 20
    assert len(synced) >= 4, "a large scene reaches the disk in portions"


def test_what_tick_raises_ends_the_work_and_leaves_nothing(
    store: SceneStore, tmp_path: Path
) -> None:
    class Gone(Exception):
        pass

    def closed() -> None:
        raise Gone

    big = Client(tmp_path / "big", {"one.df3": b"1" * (9 << 20)})
    upload = big.send(store)
    with pytest.raises(Gone):
        store.assemble(big.scene, big.entries, upload, closed)
    assert not store.has(big.scene)
    assert leftovers(store) == []


# ---------------------------------------------------------------- a client's fault


def faulty(store: SceneStore, client: Client, upload: Path | None, words: str) -> None:
    with pytest.raises(SceneFault, match=words):
        store.assemble(client.scene, client.entries, upload, nothing)
    assert not store.has(client.scene)
    assert leftovers(store) == []


def test_the_manifest_must_be_that_of_the_id(store: SceneStore, room: Client) -> None:
    upload = room.send(store)
    room.scene = SceneId("0" * 64)
    faulty(store, room, upload, "does not fit its id")


def test_a_file_that_was_not_sent_is_named(store: SceneStore, room: Client) -> None:
    upload = store.begin_upload(room.scene)
    write_tar(room.root, room.entries[:2], upload)
    faulty(store, room, upload, r"wall\.png: neither sent")


def test_an_upload_that_never_came(store: SceneStore, room: Client) -> None:
    faulty(store, room, store.begin_upload(room.scene), "have not arrived")
    faulty(store, room, None, "neither sent")


def test_other_content_than_the_manifest_says(store: SceneStore, room: Client) -> None:
    upload = room.send(store)
    assert upload is not None
    upload.write_bytes(upload.read_bytes().replace(b"wwww", b"vvvv"))
    faulty(store, room, upload, r"wall\.png: arrived damaged")


def test_a_file_the_manifest_does_not_have(store: SceneStore, room: Client, tmp_path: Path) -> None:
    more = Client(tmp_path / "more", ROOM | {"zzz.inc": b"stowaway"})
    upload = store.begin_upload(room.scene)
    write_tar(more.root, more.entries, upload)
    faulty(store, room, upload, r"zzz\.inc: sent as")


def test_an_upload_cut_short(store: SceneStore, room: Client) -> None:
    upload = room.send(store)
    assert upload is not None
    os.truncate(upload, 3000)
    faulty(store, room, upload, "archive")


def test_a_link_in_the_upload(store: SceneStore, room: Client) -> None:
    upload = store.begin_upload(room.scene)
    with tarfile.open(upload, "w") as tar:
        link = tarfile.TarInfo("wall.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    faulty(store, room, upload, r"wall\.png.*symbolic link")


@pytest.mark.parametrize("path", ["../out.inc", "/abs.inc", "a//b", "a/../b", ".", "x\0y", ""])
def test_a_hostile_name_does_not_get_in_with_known_content(
    store: SceneStore, room: Client, path: str
) -> None:
    room.put(store)
    known = room.entries[0]
    hostile = [Entry(path=path, mode=0o644, size=known.size, sha256=known.sha256)]
    assert store.missing(hostile) == []
    with pytest.raises(SceneFault):
        store.assemble(SceneId(scene_id(hostile)), hostile, None, nothing)
    assert leftovers(store) == []


def test_a_size_that_is_not_that_of_the_known_content(store: SceneStore, room: Client) -> None:
    room.put(store)
    known = room.entries[0]
    liar = [Entry(path="x", mode=0o644, size=known.size + 1, sha256=known.sha256)]
    assert store.missing(liar) == [0]
    with pytest.raises(SceneFault):
        store.assemble(SceneId(scene_id(liar)), liar, None, nothing)
    assert store.has(room.scene), "the stored scene is not blamed"


def test_one_path_twice(store: SceneStore, room: Client) -> None:
    room.put(store)
    twice = [room.entries[0], room.entries[0]]
    with pytest.raises(SceneFault, match="twice"):
        store.assemble(SceneId(scene_id(twice)), twice, None, nothing)
    assert leftovers(store) == []


@pytest.mark.parametrize(
    ("limits", "words"),
    [(ArchiveLimits(100 << 20, 2), "3 files.*takes 2.*max_scene_files"),
     (ArchiveLimits(1000, 9), "bytes.*takes 1000.*max_scene_bytes")],
)  # fmt: skip
def test_a_scene_over_the_limits(
    tmp_path: Path, room: Client, limits: ArchiveLimits, words: str
) -> None:
    store = SceneStore(tmp_path / "scenes", limits, 1 << 30)
    faulty(store, room, room.send(store), words)


# ---------------------------------------------------------------- this machine's trouble


def test_a_folder_that_cannot_be_used_is_a_fault_in_words(tmp_path: Path) -> None:
    (tmp_path / "scenes").write_bytes(b"")
    with pytest.raises(LocalFault, match=r"cannot keep scenes in .*scenes"):
        SceneStore(tmp_path / "scenes", LIMITS, 1)


def test_a_full_disk_is_a_fault_in_words(
    store: SceneStore, room: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    upload = room.send(store)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LocalFault, match="No space left on device; free some space"):
        store.assemble(room.scene, room.entries, upload, nothing)
    monkeypatch.undo()
    assert not store.has(room.scene)
    assert leftovers(store) == []


def test_a_damaged_stored_scene_is_found_out_removed_and_asked_for_again(
    store: SceneStore, room: Client, hall: Client, tmp_path: Path
) -> None:
    room.put(store)
    tar = store.tar_path(room.scene)
    tar.write_bytes(tar.read_bytes().replace(b"wwww", b"vvvv"))
    with pytest.raises(LocalFault, match="damaged and has been removed; submit once more"):
        hall.put(store)
    assert store.missing(hall.entries) == [0, 1, 2]
    hall.put(store)
    room.put(store)
    check_tar(store, room, tmp_path / "out")


def test_content_that_went_away_meanwhile_is_asked_for_again(
    store: SceneStore, room: Client, hall: Client
) -> None:
    room.put(store)
    upload = hall.send(store)
    store._max_bytes = 0
    store.evict(set())
    faulty(store, hall, upload, "neither sent nor still at the head; submit the scene again")
    hall.put(store)


# ---------------------------------------------------------------- again after a restart


def test_a_restart_finds_what_is_whole(store: SceneStore, room: Client, hall: Client) -> None:
    room.put(store)
    again = reopened(store)
    assert again.has(room.scene)
    assert [hall.entries[index].path for index in again.missing(hall.entries)] == ["hall.pov"]
    assert again.reference(room.scene) == store.reference(room.scene)


def test_lowered_limits_do_not_drop_stored_scenes(store: SceneStore, room: Client) -> None:
    room.put(store)
    assert reopened(store, ArchiveLimits(1, 1)).has(room.scene)


def break_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"[[")


def break_manifest_content(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"wall.png", b"wand.png"))


def break_tar(folder: Path) -> None:
    os.truncate(folder / "scene.tar", 2000)


def lose_tar(folder: Path) -> None:
    (folder / "scene.tar").unlink()


def swap_tar(folder: Path) -> None:
    with tarfile.open(folder / "scene.tar", "w") as tar:
        member = tarfile.TarInfo("other")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))


def rename_folder(folder: Path) -> None:
    folder.rename(folder.with_name("f" * 64))


def half_delete(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    "harm",
    [break_manifest, break_manifest_content, break_tar, lose_tar, swap_tar, rename_folder,
     half_delete],
)  # fmt: skip
def test_a_restart_drops_what_is_broken(
    store: SceneStore, room: Client, hall: Client, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    room.put(store)
    other = Client(tmp_path / "other", {"other.pov": b"other"})
    other.put(store)
    harm(store.tar_path(room.scene).parent)
    again = reopened(store)
    assert not again.has(room.scene)
    assert again.has(other.scene)
    assert leftovers(again) == []
    room.put(again)
    assert again.has(room.scene)


def test_a_restart_drops_uploads_and_halves(store: SceneStore, room: Client) -> None:
    room.send(store)
    part = store._folder / ".part-0123"
    part.mkdir()
    (part / "scene.tar").write_bytes(b"half")
    (store._folder / "stray").write_bytes(b"")
    again = reopened(store)
    assert leftovers(again) == []


# ---------------------------------------------------------------- room


def make_scenes(store: SceneStore, tmp_path: Path, count: int) -> list[SceneId]:
    scenes = []
    for number in range(count):
        client = Client(tmp_path / f"s{number}", {"a.pov": bytes([number]) * 10_000})
        client.put(store)
        scenes.append(client.scene)
    return scenes


def test_the_least_recently_used_scenes_go_first(store: SceneStore, tmp_path: Path) -> None:
    scenes = make_scenes(store, tmp_path, 4)
    store.tar_path(scenes[0])
    store._max_bytes = 2 * store._scenes[scenes[0]].tar_bytes
    store.evict(set())
    assert list(store._scenes) == [scenes[3], scenes[0]]
    assert leftovers(store) == []


def test_a_scene_in_use_stays_whatever_it_takes(store: SceneStore, tmp_path: Path) -> None:
    scenes = make_scenes(store, tmp_path, 3)
    store._max_bytes = 0
    store.evict({scenes[1]})
    assert list(store._scenes) == [scenes[1]]


def test_nothing_goes_while_all_fits(store: SceneStore, tmp_path: Path) -> None:
    scenes = make_scenes(store, tmp_path, 3)
    store._max_bytes = sum(stored.tar_bytes for stored in store._scenes.values())
    store.evict(set())
    assert list(store._scenes) == scenes


def test_the_order_of_use_survives_a_restart(store: SceneStore, tmp_path: Path) -> None:
    scenes = make_scenes(store, tmp_path, 3)
    for age, scene in enumerate((scenes[1], scenes[2], scenes[0])):
        os.utime(store._folder / scene, (1000 + age, 1000 + age))
    assert list(reopened(store)._scenes) == [scenes[1], scenes[2], scenes[0]]


def test_scenes_that_lend_content_to_an_offer_go_last(
    store: SceneStore, room: Client, hall: Client, tmp_path: Path
) -> None:
    room.put(store)
    scenes = make_scenes(store, tmp_path, 2)
    store.missing(hall.entries)
    assert list(store._scenes) == [*scenes, room.scene]


def test_an_unknown_scene_is_refused_in_words(store: SceneStore) -> None:
    for question in (store.tar_path, store.reference):
        with pytest.raises(SceneFault, match="no scene abc; submit it again"):
            question(SceneId("abc"))


def test_an_upload_can_be_discarded_also_before_it_came(store: SceneStore, room: Client) -> None:
    upload = room.send(store)
    assert upload is not None
    store.discard_upload(upload)
    store.discard_upload(upload)
    assert leftovers(store) == []


def test_manifests_are_stored_in_their_canonical_form(store: SceneStore, room: Client) -> None:
    room.put(store)
    stored = (store._folder / room.scene / "manifest.json").read_bytes()
    assert stored == canonical_manifest(room.entries)
