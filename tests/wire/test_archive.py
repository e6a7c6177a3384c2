from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import resource
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clusterray.core.errors import LocalFault, SceneFault
from clusterray.wire.archive import index_tar, unpack_tar
from clusterray.wire.manifest import build_manifest, canonical_manifest, scene_id
from clusterray.wire.protocol import Entry
from clusterray.wire.scene_names import ArchiveFault, ArchiveLimits
from clusterray.wire.tar_writer import TarWriter, write_tar

LIMITS = ArchiveLimits(max_bytes=1 << 20, max_files=100)
EMPTY = hashlib.sha256().hexdigest()


def put(root: Path, name: str, data: bytes = b"x", mode: int = 0o644) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    for key, value in more.items():
        setattr(info, key, value)
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return header + data + bytes(-len(data) % 512)


def tar(folder: Path, *members: bytes) -> Path:
    path = folder / "scene.tar"
    path.write_bytes(b"".join(members) + bytes(1024))
    return path


def patched(block: bytes, start: int, data: bytes) -> bytes:
    """Change bytes of a header block and mend its checksum."""
    changed = bytearray(block)
    changed[start : start + len(data)] = data
    changed[148:156] = b"        "
    changed[148:156] = b"%06o\0 " % sum(changed[:512])
    return bytes(changed)


# ---------------------------------------------------------------- round trip

parts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=30
).filter(lambda part: part not in (".", ".."))
names = st.lists(parts, min_size=1, max_size=5).map("/".join)


def fits_a_disk(found: dict[str, bytes]) -> bool:
    folders = {
        "/".join(name.split("/")[:n]) for name in found for n in range(1, name.count("/") + 1)
    }
    return not folders & set(found)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    files=st.dictionaries(names, st.binary(max_size=1500), max_size=8).filter(fits_a_disk),
    runnable=st.booleans(),
)
@example(files={"a b/ü ñ/" + "x" * 200 + "/" + "y" * 255: b"long"}, runnable=False)
@example(files={"x" * 100: b"", "y" * 101: b"", "d/" + "z" * 99: b"z"}, runnable=True)
@example(
    files={"UP": b"1", "up": b"2", "-x": b"3", "a\nb": b"4", "~": b"", "c:\\d": b"5"},
    runnable=False,
)
def test_what_is_packed_is_what_is_unpacked(
    tmp_path: Path, files: dict[str, bytes], runnable: bool
) -> None:
    shutil.rmtree(tmp_path)
    root = tmp_path / "scene"
    root.mkdir(parents=True)
    for name, data in files.items():
        put(root, name, data, 0o700 if runnable else 0o600)
    entries = build_manifest(root, list(files))

    size, digest = write_tar(root, entries, tmp_path / "scene.tar")
    packed = (tmp_path / "scene.tar").read_bytes()
    assert (size, digest) == (len(packed), hashlib.sha256(packed).hexdigest())

    assert unpack_tar(tmp_path / "scene.tar", tmp_path / "out", LIMITS) == entries
    assert build_manifest(tmp_path / "out", list(files)) == entries
    assert {e.path: (e.mode, e.size) for e in entries} == {
        name: (0o755 if runnable else 0o644, len(data)) for name, data in files.items()
    }
    for found in index_tar(tmp_path / "scene.tar", LIMITS):
        assert packed[found.offset : found.offset + found.size] == files[found.path]
    # A reader that knows nothing of ours agrees.
    with tarfile.open(tmp_path / "scene.tar") as other:
        assert sorted(other.getnames()) == sorted(files)


def test_the_same_files_make_the_same_bytes_and_the_same_id(tmp_path: Path) -> None:
    packed = set()
    for number, mode in enumerate((0o600, 0o664)):
        root = tmp_path / str(number)
        put(root, "b.inc", b"b", mode)
        put(root, "a/c.pov", b"c", mode)
        os.utime(root / "b.inc", (number, number))
        entries = build_manifest(root, ["b.inc", "a/c.pov"])
        assert [e.path for e in entries] == ["a/c.pov", "b.inc"]
        packed.add((*write_tar(root, entries, tmp_path / f"{number}.tar"), scene_id(entries)))
    assert len(packed) == 1


def test_the_canonical_manifest_is_one_spelling() -> None:
    entries = [Entry(path=p, mode=0o644, size=0, sha256=EMPTY) for p in ("ü", "b", "a/x")]
    assert canonical_manifest(entries) == canonical_manifest(entries[::-1])
    assert canonical_manifest(entries[2:]) == f'[["a/x",420,0,"{EMPTY}"]]'.encode()
    assert scene_id(entries[:1]) != scene_id(entries[1:2])


def test_progress_tells_each_byte_once(tmp_path: Path) -> None:
    put(tmp_path, "a", bytes(700_000))
    put(tmp_path, "b", bytes(3))
    told: list[list[int]] = [[], [], []]
    entries = build_manifest(tmp_path, ["a", "b"], told[0].append)
    write_tar(tmp_path, entries, tmp_path / "t.tar", told[1].append)
    unpack_tar(tmp_path / "t.tar", tmp_path / "out", LIMITS, told[2].append)
    assert [sum(each) for each in told] == [700_003] * 3
    assert len(told[0]) > 2


# ---------------------------------------------------------------- packing


def test_a_link_is_packed_as_what_it_points_to(tmp_path: Path) -> None:
    put(tmp_path, "real.inc", b"content")
    (tmp_path / "link.inc").symlink_to("real.inc")
    (entry,) = build_manifest(tmp_path, ["link.inc"])
    assert (entry.size, entry.sha256) == (7, hashlib.sha256(b"content").hexdigest())
    write_tar(tmp_path, [entry], tmp_path / "t.tar")
    unpack_tar(tmp_path / "t.tar", tmp_path / "out", LIMITS)
    assert not (tmp_path / "out/link.inc").is_symlink()


def test_a_file_from_elsewhere_is_packed_under_its_name_in_the_tree(tmp_path: Path) -> None:
    root = tmp_path / "scene"
    put(root, "a.pov", b"scene")
    put(tmp_path, "lib/w.inc", b"walls")
    elsewhere = {"outside/1/w.inc": tmp_path / "lib" / "w.inc"}
    entries = build_manifest(root, ["a.pov", "outside/1/w.inc"], elsewhere=elsewhere)
    write_tar(root, entries, tmp_path / "t.tar", elsewhere=elsewhere)
    assert unpack_tar(tmp_path / "t.tar", tmp_path / "out", LIMITS) == entries
    assert (tmp_path / "out/outside/1/w.inc").read_bytes() == b"walls"


def test_files_that_cannot_be_packed_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, word in (("pipe", "regular file"), ("dangling", "No such file"), ("no", "No such")):
        with pytest.raises(SceneFault, match=word) as caught:
            build_manifest(tmp_path, [name])
        assert caught.value.file == name


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../b", "", "a//b", "./a", "\udcff"])
def test_a_name_no_reader_takes_is_not_packed(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveFault, match="the name"):
        build_manifest(tmp_path, [name])


@pytest.mark.parametrize("content", [b"", b"ab", b"abd", b"abcd"])
def test_a_file_that_changes_while_it_is_packed_stops_it(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, "a.pov", b"abc")
    entries = build_manifest(tmp_path, ["a.pov"])
    put(tmp_path, "a.pov", content)
    with pytest.raises(SceneFault, match="changed while it was packed") as caught:
        write_tar(tmp_path, entries, tmp_path / "t.tar")
    assert caught.value.file == "a.pov"
    assert not (tmp_path / "t.tar").exists()


def test_a_tar_is_never_written_over_a_file(tmp_path: Path) -> None:
    put(tmp_path, "t.tar", b"mine")
    with pytest.raises(LocalFault, match="File exists"):
        write_tar(tmp_path, [], tmp_path / "t.tar")
    assert (tmp_path / "t.tar").read_bytes() == b"mine"


def test_a_disk_that_takes_no_more_is_said_and_nothing_stays(tmp_path: Path) -> None:
    put(tmp_path, "a", bytes(1 << 20))
    entries = build_manifest(tmp_path, ["a"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(LocalFault, match=r"cannot write .*t\.tar: File too large"):
            write_tar(tmp_path, entries, tmp_path / "t.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "t.tar").exists()


def test_a_writer_takes_bytes_from_anywhere(tmp_path: Path) -> None:
    entry = Entry(path="a", mode=0o755, size=2, sha256=hashlib.sha256(b"hi").hexdigest())
    with TarWriter(tmp_path / "t.tar") as writer:
        writer.add(entry, io.BytesIO(b"hi, and more that is another file's"))
        writer.finish()
    assert unpack_tar(tmp_path / "t.tar", tmp_path / "out", LIMITS) == [entry]


# ---------------------------------------------------------------- hostile archives

HOSTILE: dict[str, tuple[list[bytes], str]] = {
    "absolute": ([member("/etc/passwd", b"x")], "absolute"),
    "parent": ([member("../x", b"x")], "leaves the folder"),
    "inner parent": ([member("a/../../x", b"x")], "leaves the folder"),
    "dot": ([member("./x", b"x")], 'empty or "." part'),
    "empty": ([member("", b"x")], "is empty"),
    "double slash": ([member("a//b", b"x")], "part"),
    "trailing slash": ([member("a/", b"x")], "part"),
    "folder parent": ([member("..", kind=tarfile.DIRTYPE)], "leaves the folder"),
    "symlink": ([member("l", kind=tarfile.SYMTYPE, linkname="/etc")], "'l' is a symbolic link"),
    "hard link": ([member("l", kind=tarfile.LNKTYPE, linkname="/etc/passwd")], "a hard link"),
    "device": ([member("zero", kind=tarfile.CHRTYPE, devmajor=1, devminor=5)], "character dev"),
    "block device": ([member("sda", kind=tarfile.BLKTYPE)], "a block device"),
    "fifo": ([member("pipe", kind=tarfile.FIFOTYPE)], "a named pipe"),
    "sparse": ([patched(member("s"), 156, b"S")], "'s' is a sparse file"),
    "pax sparse": (
        [member("s", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.name": "t"})],
        "sparse",
    ),
    "gnu long name": ([patched(member("s"), 156, b"L")], "a GNU long name"),
    "global header": ([patched(member("s"), 156, b"g")], "a global header"),
    "unknown kind": ([patched(member("s"), 156, b"V")], "unknown kind"),
    "twice": ([member("a"), member("a")], "'a' is in the archive twice"),
    "file then folder": ([member("a"), member("a/b")], "'a' is both a file and a folder"),
    "folder then file": ([member("a/b"), member("a")], "'a' is in the archive twice"),
    "file then folder member": (
        [member("a"), member("a", kind=tarfile.DIRTYPE)],
        "both a file and a folder",
    ),
    "folder with content": ([patched(member("d", b"x"), 156, b"5")], "has content"),
    "not utf-8": ([patched(member("abc"), 0, b"a\xffc")], "not UTF-8"),
    "pax not utf-8": ([member("a\udcff" * 40)], "not UTF-8"),
    "pax zero byte": ([member("a" * 101, pax_headers={"path": "a\0b"})], "zero byte"),
    "pax absolute": ([member("x", pax_headers={"path": "/etc/passwd"})], "absolute"),
    "pax bad size": ([member("x", pax_headers={"size": "-1"})], "a size that is none"),
    "pax huge size": ([member("x", pax_headers={"size": "9" * 17})], "in the middle of 'x'"),
    "pax too long": ([member("x", pax_headers={"comment": "c" * 70_000})], "over 65536 bytes"),
    "pax twice": ([member("x" * 150)[:1024] * 2 + member("y")], "two extended headers"),
    "pax and no member": ([member("x" * 150)[:1024]], "after an extended header"),
    "too deep": ([member("/".join("a" * 65))], "64 folders deep"),
    "too long": ([member("/".join(["a" * 200] * 6))], "longer than 1024 bytes"),
    "part too long": ([member("a" * 256)], "longer than 255 bytes"),
    "too many bytes": ([member("a", bytes(1 << 20)), member("b", b"x")], "1048576 bytes, from 'b'"),
    "too many files": ([member(f"f{n}") for n in range(101)], "100 files, from 'f100'"),
    "too many folders": ([member(f"{n}/a/a/x") for n in range(40)], "more than 100 files"),
    "bad checksum": ([member("a")[:148] + b"0000001\0" + member("a")[156:]], "damaged"),
    "bad number": ([patched(member("a"), 124, b"zzzzzzzzzzz\0")], "a number that is none"),
    "base-256 size": ([patched(member("a"), 124, b"\x80" + bytes(10) + b"\1")], "is none"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_tar_is_refused_by_both_readers(tmp_path: Path, case: str) -> None:
    members, word = HOSTILE[case]
    source = tar(tmp_path, *members)
    with pytest.raises(ArchiveFault) as caught:
        index_tar(source, LIMITS)
    assert word in str(caught.value)
    with pytest.raises(ArchiveFault) as caught:
        unpack_tar(source, tmp_path / "out", LIMITS)
    assert word in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "scene.tar"]


def test_the_limit_stops_before_the_bytes_are_written(tmp_path: Path) -> None:
    source = tar(tmp_path, member("big", bytes(1 << 20) + b"x"))
    with pytest.raises(ArchiveFault, match="from 'big' on"):
        unpack_tar(source, tmp_path / "out", LIMITS)
    assert not (tmp_path / "out/big").exists()


def test_a_bomb_is_stopped_before_its_first_byte(tmp_path: Path) -> None:
    source = tmp_path / "scene.tar"
    source.write_bytes(member("bomb", pax_headers={"size": str(1 << 40)}))
    os.truncate(source, 2 << 40)  # a hole: that much is there to be read, and nothing on the disk
    told: list[int] = []
    with pytest.raises(ArchiveFault, match="from 'bomb' on"):
        unpack_tar(source, tmp_path / "out", LIMITS, told.append)
    assert told == []
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_nothing_is_inflated(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    source = tmp_path / "scene.tar"
    source.write_bytes(pack(member("a", bytes(1 << 20)) + bytes(1024)).ljust(2048, b"\0"))
    with pytest.raises(ArchiveFault, match=r"damaged|a number that is none|not UTF-8"):
        index_tar(source, LIMITS)


def test_no_tar_gives_more_than_it_holds(tmp_path: Path) -> None:
    """Members do not overlap, so what is unpacked is never larger than the archive."""
    lying = patched(member("a", b"x" * 512), 124, b"%011o\0" % 1536)
    with pytest.raises(ArchiveFault, match=r"no end|middle of 'a'"):
        index_tar(tar(tmp_path, lying), LIMITS)
    # What it claims of the next member's header is content, and no header any more.
    source = tar(tmp_path, lying, member("b", b"y"))
    (found,) = unpack_tar(source, tmp_path / "out", LIMITS)
    assert (found.path, found.size) == ("a", 1536)


def test_names_that_differ_by_case_are_two_files(tmp_path: Path) -> None:
    source = tar(tmp_path, member("a/Wood.png", b"1"), member("A/wood.png", b"2"))
    entries = unpack_tar(source, tmp_path / "out", LIMITS)
    assert [entry.path for entry in entries] == ["A/wood.png", "a/Wood.png"]
    # Where the disk takes them for one, the second stands in the way of the first.
    with pytest.raises(ArchiveFault, match=r"'a/Wood\.png' cannot be made: something stands in"):
        unpack_tar(source, tmp_path / "out", LIMITS)


def test_folders_are_made_and_may_be_named_more_than_once(tmp_path: Path) -> None:
    folder = member("d/e", kind=tarfile.DIRTYPE)
    source = tar(tmp_path, folder, member("d/e/f", b"x"), folder)
    assert [e.path for e in unpack_tar(source, tmp_path / "out", LIMITS)] == ["d/e/f"]
    assert [m.path for m in index_tar(source, LIMITS)] == ["d/e/f"]


def test_modes_lose_all_but_the_right_to_run(tmp_path: Path) -> None:
    source = tar(tmp_path, member("a", mode=0o7777), member("b", mode=0o000))
    assert [e.mode for e in unpack_tar(source, tmp_path / "out", LIMITS)] == [0o755, 0o644]
    assert [(tmp_path / "out" / n).stat().st_mode & 0o7777 for n in "ab"] == [0o755, 0o644]


@pytest.mark.parametrize("kept", [0, 100, 511, 512, 700, 1024, 1300])
def test_a_cut_off_tar_is_told(tmp_path: Path, kept: int) -> None:
    source = tar(tmp_path, member("a", bytes(600)))
    source.write_bytes(source.read_bytes()[:kept])
    for read in (index_tar, lambda s, limits: unpack_tar(s, tmp_path / "out", limits)):
        with pytest.raises(ArchiveFault, match=r"no end|middle of 'a'"):
            read(source, LIMITS)


def test_links_waiting_in_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "d").symlink_to(outside)
    (out / "f").symlink_to(outside / "f")
    for name in ("d/x", "f"):
        with pytest.raises(ArchiveFault, match="stands in its way"):
            unpack_tar(tar(tmp_path, member(name, b"x")), out, LIMITS)
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(LocalFault, match="cannot use the folder"):
        unpack_tar(tar(tmp_path, member("x", b"x")), tmp_path / "link", LIMITS)
    assert not list(outside.iterdir())


def test_an_archive_that_is_not_there_is_this_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(LocalFault, match="No such file"):
        index_tar(tmp_path / "none.tar", LIMITS)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_tar_raises_only_our_faults_and_stays_inside(
    tmp_path: Path, data: st.DataObject
) -> None:
    shutil.rmtree(tmp_path)
    (tmp_path / "cage").mkdir(parents=True)
    blob = bytearray(member("d/a" * 40, b"hello") + member("b", b"x" * 600) + bytes(1024))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(blob) - 1))
        blob[start : start + 12] = data.draw(st.binary(max_size=12))
    source = tmp_path / "scene.tar"
    source.write_bytes(blob)
    reader: Callable[[], object]
    for reader in (
        lambda: index_tar(source, LIMITS),
        lambda: unpack_tar(source, tmp_path / "cage/out", LIMITS),
    ):
        try:
            reader()
        except ArchiveFault as fault:
            assert fault.message
    assert {p.name for p in tmp_path.iterdir()} == {"cage", "scene.tar"}


def test_the_archive_speaks_of_members_only_by_repr(tmp_path: Path) -> None:
    source = tar(tmp_path, member("a\x1b[31m", kind=tarfile.FIFOTYPE))
    with pytest.raises(ArchiveFault) as caught:
        index_tar(source, LIMITS)
    assert "\x1b" not in str(caught.value)
