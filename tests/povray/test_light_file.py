from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest

from clusterray.povray.light_file import (
    MAX_LINE_BYTES,
    LightFault,
    check_light,
    count_photons,
    join_light,
    seat_samples,
)

SAMPLE = b"C2\t35.3559\t-1.3e-07\t55.92\t7f7f00\t0.1413\t0.0973\t0.0279\t5.28\t1.32\t870170\n"


def file_of(folder: Path, data: bytes, name: str = "a.rca") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize(("data", "samples"), [(b"", 0), (SAMPLE, 1), (SAMPLE * 3, 3)])
def test_samples_are_counted(tmp_path: Path, data: bytes, samples: int) -> None:
    assert check_light("radiosity", file_of(tmp_path, data)) == samples


@pytest.mark.parametrize(
    "line",
    [SAMPLE[:-1], SAMPLE[:40], b"x\n", b"\n", b"C1\n", b"C1\t\x00\n", SAMPLE[:-1] * 2 + b"\n"],
)
def test_a_line_that_is_no_sample_is_named(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(LightFault, match="line 2 of the light"):
        check_light("radiosity", file_of(tmp_path, SAMPLE + line + SAMPLE))


def test_a_torn_last_line_is_no_sample(tmp_path: Path) -> None:
    with pytest.raises(LightFault, match="line 2"):
        check_light("radiosity", file_of(tmp_path, SAMPLE + SAMPLE[:-1]))


def test_parts_are_put_behind_each_other(tmp_path: Path) -> None:
    parts = [file_of(tmp_path, SAMPLE * count, f"{count}.rca") for count in (2, 0, 1)]
    light = join_light("radiosity", parts, tmp_path / "joined")
    assert light is not None
    assert (light.samples, light.size) == (3, 3 * len(SAMPLE))
    assert (tmp_path / "joined").read_bytes() == SAMPLE * 3
    assert light.sha256 == hashlib.sha256(SAMPLE * 3).hexdigest()


def test_nothing_joined_is_no_file(tmp_path: Path) -> None:
    assert join_light("radiosity", [file_of(tmp_path, b"")], tmp_path / "joined") is None
    with pytest.raises(LightFault):
        join_light(
            "radiosity",
            [file_of(tmp_path, SAMPLE), file_of(tmp_path, b"?", "b")],
            tmp_path / "joined",
        )
    assert not (tmp_path / "joined").exists()


def test_a_join_can_be_done_again(tmp_path: Path) -> None:
    part = file_of(tmp_path, SAMPLE)
    first = join_light("radiosity", [part], tmp_path / "joined")
    assert join_light("radiosity", [part], tmp_path / "joined") == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.rca", "joined"]


# ---------------------------------------------------------------- photon maps


def photons(surface: int, media: int, order: str = "<") -> bytes:
    """A map of so many photons for surfaces and for media."""
    data = b""
    for count in (surface, media):
        data += struct.pack(f"{order}I", count) + b"p" * 20 * count
    return data


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("counts", [(1, 0), (0, 3), (300, 70)])
def test_photons_are_counted(tmp_path: Path, counts: tuple[int, int], order: str) -> None:
    path = file_of(tmp_path, photons(*counts, order))
    assert count_photons(path) == check_light("photons", path) == sum(counts)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 23, 24, 47])
def test_a_map_that_is_still_being_written_is_none(tmp_path: Path, cut: int) -> None:
    path = file_of(tmp_path, photons(2, 0)[:cut])
    assert count_photons(path) is None
    with pytest.raises(LightFault, match="no whole photon map"):
        check_light("photons", path)


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    for data in (photons(2, 1) + b"x", SAMPLE * 20, b"\xff" * 4000):
        assert count_photons(file_of(tmp_path, data)) is None


def test_the_map_of_a_frame_is_its_one_part(tmp_path: Path) -> None:
    data = photons(5, 2)
    part = file_of(tmp_path, data)
    light = join_light("photons", [part], tmp_path / "joined")
    assert light is not None
    assert (light.kind, light.samples, light.size) == ("photons", 7, len(data))
    assert (tmp_path / "joined").read_bytes() == data
    assert join_light("photons", [file_of(tmp_path, b"", "b")], tmp_path / "none") is None
    with pytest.raises(LightFault, match="one part"):
        join_light("photons", [part, part], tmp_path / "two")


# ---------------------------------------------------------------- samples seated


def seated(folder: Path, line: bytes) -> bytes:
    path = file_of(folder, line)
    seat_samples(path)
    return path.read_bytes()


def test_a_sample_is_put_a_little_behind_its_surface(tmp_path: Path) -> None:
    # Its normal, 7f7f00, points along -z: four units of the last digit of 55.92.
    assert seated(tmp_path, SAMPLE).split(b"\t")[1:4] == [b"35.3559", b"-1.3e-07", b"55.9204"]
    assert check_light("radiosity", tmp_path / "a.rca") == 1


@pytest.mark.parametrize(
    "line",
    [
        b"C1\t0\t0\t0\t7ffe7f\t0.1\t0.1\t0.1\t5.28\t1.32\t870170\n",
        b"C1\t1e6\t0\t0\t7ffe7f\t0.1\t0.1\t0.1\t5.28\t1.32\t870170\n",
        b"C1\tnan\t0\t0\t7ffe7f\t0.1\t0.1\t0.1\t5.28\t1.32\t870170\n",
        b"C1\t1\t0\t0\t7f7f7f\t0.1\t0.1\t0.1\t5.28\t1.32\t870170\n",
        b"C1\t1\t0\t0\t7ffe\t0.1\t0.1\t0.1\t5.28\t1.32\t870170\n",
        b"C1\t1\t0\t0\tzzzzzz\t0.1\t0.1\t0.1\t5.28\t1.32\t870170\n",
        b"C1\t1\t2\n",
        b"no sample",
    ],
)
def test_what_cannot_be_seated_stays(tmp_path: Path, line: bytes) -> None:
    """Zero has no last digit, and where that is as far as the sample reaches nothing is gained."""
    assert seated(tmp_path, line + SAMPLE).startswith(line)


def test_no_line_grows_beyond_what_povray_reads(tmp_path: Path) -> None:
    place = b"-1.23457e-05\t-1.23457e-05\t-1.23457e-05"
    line = b"C1\t" + place + b"\t1234ff\t1.0000\t1.0000\t1.0000\t1.23457\t1.23457\t870170"
    for digits in range(MAX_LINE_BYTES - len(line)):
        path = file_of(tmp_path, line + b"0" * digits + b"\n")
        seat_samples(path)
        assert check_light("radiosity", path) == 1
