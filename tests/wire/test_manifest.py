"""A manifest in parts, and ranges of its entries."""

from __future__ import annotations

import hashlib
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterray.wire.manifest import expand_ranges, manifest_parts, missing_ranges
from clusterray.wire.protocol import MANIFEST_PART_BYTES, Entry, Manifest, ProtocolError, encode

EMPTY = hashlib.sha256().hexdigest()


@given(st.lists(st.text("aü", min_size=1, max_size=900), max_size=900))
def test_a_manifest_in_parts_is_whole_and_each_part_fits(paths: list[str]) -> None:
    entries = [Entry(path=p, mode=0o644, size=2**53, sha256=EMPTY) for p in paths]
    parts = list(manifest_parts(entries))
    assert [entry for part in parts for entry in part] == entries
    assert parts
    for number, part in enumerate(parts):
        assert len(msgspec.json.encode(part)) <= MANIFEST_PART_BYTES + 4096
        encode(Manifest(request=1, part=number, entries=part))


def test_many_entries_are_cut_into_several_parts() -> None:
    entries = [Entry(path=f"f{n}", mode=0o644, size=0, sha256=EMPTY) for n in range(20_000)]
    parts = list(manifest_parts(entries))
    assert len(parts) > 1
    assert all(len(msgspec.json.encode(part)) <= MANIFEST_PART_BYTES for part in parts)
    assert sum(map(len, parts)) == len(entries)


@given(st.sets(st.integers(0, 200)))
def test_ranges_round_trip(indices: set[int]) -> None:
    ranges = missing_ranges(list(indices))
    assert expand_ranges(ranges, 201) == sorted(indices)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))


@pytest.mark.parametrize(
    "ranges", [[(0, 0)], [(3, 2)], [(0, 6)], [(2, 3), (0, 1)], [(0, 2), (1, 3)]]
)
def test_ranges_that_do_not_fit_are_refused(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(ProtocolError, match="does not fit 5 entries"):
        expand_ranges(ranges, 5)
