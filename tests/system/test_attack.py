"""A short attack on a farm; scripts/attack makes long ones of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attack.siege import besiege
from tests.system.harness import needs_povray

pytestmark = [needs_povray, pytest.mark.slow, pytest.mark.timeout(600)]

SIZE = (96, 128)
SPARE_MB = 64
"""What Python's allocator may keep; two thousand sessions that stayed would be more."""


@pytest.mark.parametrize("addresses", [5000, 1], ids=["many addresses", "one address"])
def test_the_picture_is_right_and_nothing_of_the_attack_stays(
    tmp_path: Path, addresses: int
) -> None:
    report = besiege(tmp_path, 2000, addresses, size=SIZE)
    assert report.sessions.total() == 2000
    assert report.jobs >= 1
    assert report.differing == 0
    assert report.threads[2] <= report.threads[0]
    assert report.descriptors[2] <= report.descriptors[0]
    assert report.memory[2] <= report.memory[0] + SPARE_MB
