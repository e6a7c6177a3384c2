"""A scene of files that the node has and of a few that it fetches: which, and how they become one.

For the "render" threads, by way of node.scene_cache. The head's tar of a scene has its members
where the manifest says they must be, so the node names the bytes of those it lacks and gets a tar
of just these. Nothing is believed: the manifest's hash is the scene's id, and every file is hashed,
also one that lies here already.
"""

from __future__ import annotations

import bisect
import hashlib
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from clusterray.wire.manifest import canonical_manifest, decode_manifest, scene_id
from clusterray.wire.protocol import Entry, SceneRef
from clusterray.wire.scene_names import ArchiveFault, ArchiveLimits, Names
from clusterray.wire.tar_writer import END_OF_TAR, tar_layout

MANIFEST_MOST_BYTES: Final = 64 << 20
"""No larger manifest is fetched; one of 20,000 files has two or three MB."""
GAP_BYTES: Final = 32 << 10
"""What lies between two lacking files travels too if it is less: naming it would cost as much."""
RANGES_AT_ONCE: Final = 64
"""So many ranges are asked for by one command, whose line must stay below 2,048 bytes."""
WORTH_IT: Final = 0.9
"""A scene is fetched whole if this part of it is lacking."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """One tar to fetch: ``name`` is what to ask the head for, ``size`` its bytes.

    It comes without the end that a tar has.
    """

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How to make a scene: what is here already by path, and the tars that bring the rest."""

    entries: list[Entry]
    here: dict[str, Path]
    fetches: list[Fetch]


def read_manifest(file: Path, scene: str) -> list[Entry] | None:
    """Give the entries of a manifest; None if it is not there or not that of ``scene``."""
    try:
        entries = decode_manifest(file.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return entries if scene_id(entries) == scene else None


def write_manifest(file: Path, entries: Sequence[Entry]) -> None:
    """Keep a scene's manifest; OSError if that fails."""
    file.write_bytes(canonical_manifest(entries))


def make_plan(
    scene: SceneRef, tar_name: str, entries: list[Entry], held: Mapping[str, Path]
) -> Plan | None:
    """Say how to make ``scene`` of files ``held``, by sha256; None if it is to be fetched whole."""
    ordered = sorted(entries, key=lambda entry: entry.path)
    places, total = tar_layout(ordered)
    if total != scene.tar_bytes or not _plain(ordered, scene):
        return None
    both = list(zip(ordered, places, strict=True))
    ranges = _merged(place for entry, place in both if entry.sha256 not in held)
    if sum(end - start for start, end in ranges) > WORTH_IT * total:
        return None
    here = {e.path: held[e.sha256] for e, place in both if not _within(place, ranges)}
    batches = [ranges[at : at + RANGES_AT_ONCE] for at in range(0, len(ranges), RANGES_AT_ONCE)]
    return Plan(ordered, here, [_fetch(tar_name, batch) for batch in batches])


def _plain(entries: Sequence[Entry], scene: SceneRef) -> bool:
    names = Names(ArchiveLimits(scene.tar_bytes, len(entries)))
    try:
        for entry in entries:
            names.add_file(entry.path)
    except ArchiveFault:
        return False
    return True


def _merged(places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for start, end in places:
        if ranges and start - ranges[-1][1] < GAP_BYTES:
            ranges[-1] = ranges[-1][0], end
        else:
            ranges.append((start, end))
    return ranges


def _within(place: tuple[int, int], ranges: Sequence[tuple[int, int]]) -> bool:
    at = bisect.bisect(ranges, (place[0], sys.maxsize)) - 1
    return at >= 0 and place[0] < ranges[at][1]


def _fetch(tar_name: str, ranges: Sequence[tuple[int, int]]) -> Fetch:
    words = ",".join(f"{start}-{end}" for start, end in ranges)
    return Fetch(f"{tar_name};{words}", sum(end - start for start, end in ranges))


def end_tar(tar: Path) -> None:
    """Give a fetched tar its end; OSError if that fails."""
    with tar.open("ab") as file:
        file.write(END_OF_TAR)


def take_here(plan: Plan, folder: Path) -> bool:
    """Put the files that are here into ``folder``; False if one is not what its hash says.

    As second names of the same files where the disk has such, for nobody writes to either.
    """
    by_path = {entry.path: entry for entry in plan.entries}
    for path, source in plan.here.items():
        if not _holds(source, by_path[path]):
            return False
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, target)
    return True


def _holds(file: Path, entry: Entry) -> bool:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == entry.sha256
    except OSError:
        return False


def is_whole(plan: Plan, fetched: Iterable[Entry]) -> bool:
    """Tell whether what was fetched is of the scene, and with what was here all of it."""
    wanted = set(plan.entries)
    got = set(fetched)
    paths = {entry.path for entry in got} | plan.here.keys()
    return got <= wanted and len(paths) == len(plan.entries)
