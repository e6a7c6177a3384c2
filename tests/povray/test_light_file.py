from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from clusterray.povray.light_file import LightFault, check_light, join_light

SAMPLE = b"C2\t35.3559\t-1.3e-07\t55.92\t7f7f00\t0.1413\t0.0973\t0.0279\t5.28\t1.32\t870170\n"


def file_of(folder: Path, data: bytes, name: str = "a.rca") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize(("data", "samples"), [(b"", 0), (SAMPLE, 1), (SAMPLE * 3, 3)])
def test_samples_are_counted(tmp_path: Path, data: bytes, samples: int) -> None:
    assert check_light(file_of(tmp_path, data)) == samples


@pytest.mark.parametrize(
    "line",
    [SAMPLE[:-1], SAMPLE[:40], b"x\n", b"\n", b"C1\n", b"C1\t\x00\n", SAMPLE[:-1] * 2 + b"\n"],
)
def test_a_line_that_is_no_sample_is_named(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(LightFault, match="line 2 of the light"):
        check_light(file_of(tmp_path, SAMPLE + line + SAMPLE))


def test_a_torn_last_line_is_no_sample(tmp_path: Path) -> None:
    with pytest.raises(LightFault, match="line 2"):
        check_light(file_of(tmp_path, SAMPLE + SAMPLE[:-1]))


def test_parts_are_put_behind_each_other(tmp_path: Path) -> None:
    parts = [file_of(tmp_path, SAMPLE * count, f"{count}.rca") for count in (2, 0, 1)]
    light = join_light(parts, tmp_path / "joined")
    assert light is not None
    assert (light.samples, light.size) == (3, 3 * len(SAMPLE))
    assert (tmp_path / "joined").read_bytes() == SAMPLE * 3
    assert light.sha256 == hashlib.sha256(SAMPLE * 3).hexdigest()


def test_nothing_joined_is_no_file(tmp_path: Path) -> None:
    assert join_light([file_of(tmp_path, b"")], tmp_path / "joined") is None
    with pytest.raises(LightFault):
        join_light([file_of(tmp_path, SAMPLE), file_of(tmp_path, b"?", "b")], tmp_path / "joined")
    assert not (tmp_path / "joined").exists()
