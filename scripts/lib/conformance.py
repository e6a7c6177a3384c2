"""Hold the farm's picture of a scene against plain POV-Ray's, and judge what differs.

Responsible for one verdict on one scene with one size and one way of antialiasing. What POV-Ray
itself does not repeat, with another number of threads or its blocks in another order, is measured
before the farm is blamed. Callers' threads; every measurement keeps to a folder of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import msgspec
from compare_pictures import Difference, compare
from corpus import Scene
from PIL import Image
from programs import Programs
from standing_farm import StandingFarm, Submitted

Verdict: TypeAlias = Literal["identical", "within noise", "alike", "different", "too slow"]
VERDICTS: tuple[Verdict, ...] = ("identical", "within noise", "alike", "different", "too slow")

THREAD_PROBES: Mapping[str, tuple[str, ...]] = {
    "+WT2": ("+WT2",),
    "+WT2 again": ("+WT2",),
    "+WT3": ("+WT3",),
}
"""Runs of plain POV-Ray that a deterministic scene gives the same picture in as with +WT1."""
ORDER_PROBES: Mapping[str, tuple[str, ...]] = {
    "+WT1 +RP3": ("+WT1", "+RP3"),
    "+WT1 +RS5": ("+WT1", "+RS5"),
}
"""The same blocks by one thread in another order, which no scene without chance can tell."""
FAR = 1.5
"""So many times what plain runs differ by is worth a look: three runs do not show all of chance."""
_MOST_PLACES = 20
_SAID_BY_FARM = re.compile(r"^clusterray-submit: (?:\S+:\d+: )?(.+)$", re.MULTILINE)
_MISSING = re.compile(r"Cannot find file '([^']+)'")
_FATAL = re.compile(r"^(File '.*' line \d+: .*|Fatal error in .*|Problem with .*)$", re.MULTILINE)


class Settings(msgspec.Struct, frozen=True, omit_defaults=True):
    """The picture's size in pixels, the method of antialiasing, and what of the scene is sent.

    ``found_alone``: the farm gets nothing but the files that the submitter finds the scene to need.
    """

    width: int
    height: int
    antialias: int
    found_alone: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """POV-Ray's switches for it."""
        return (f"+W{self.width}", f"+H{self.height}", "+A0.3", f"+AM{self.antialias}")

    def __str__(self) -> str:
        alone = ", found files alone" if self.found_alone else ""
        return f"{self.width}x{self.height} AM{self.antialias}{alone}"


class Gap(msgspec.Struct, frozen=True):
    """How far two pictures are apart: pixels that differ, the largest difference of 255."""

    pixels: int
    largest: int


NO_GAP = Gap(0, 0)


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """The verdict on one scene with one setting, and what it rests on.

    ``farm`` is the farm's picture against plain +WT1, ``probes`` other plain runs against the
    same. ``places`` are the first pixels that differ, as x and y. ``message`` is POV-Ray's own, or
    the farm's where only the farm complains. ``commit`` is ClusterRay's.
    """

    scene: str
    settings: Settings
    verdict: Verdict
    bands: int = 0
    farm: Gap = NO_GAP
    probes: dict[str, Gap] = {}
    places: tuple[tuple[int, int], ...] = ()
    message: str = ""
    plain_s: float = 0.0
    farm_s: float = 0.0
    povray: str = ""
    commit: str = ""

    @property
    def key(self) -> tuple[str, Settings]:
        """What is measured once."""
        return self.scene, self.settings

    @property
    def is_far(self) -> bool:
        """Tell whether the farm is clearly farther from plain +WT1 than all other plain runs."""
        pixels = max((gap.pixels for gap in self.probes.values()), default=0)
        largest = max((gap.largest for gap in self.probes.values()), default=0)
        return self.farm.pixels > FAR * pixels or self.farm.largest > FAR * largest

    @property
    def depends_on_order(self) -> bool:
        """Tell whether one thread of plain POV-Ray gives another picture in another order."""
        return any(self.probes[name].pixels for name in ORDER_PROBES if name in self.probes)


@dataclass(frozen=True, slots=True)
class PlainRun:
    """A run of plain POV-Ray: its exit code, None if it was given up, and all that it said."""

    code: int | None
    said: str
    seconds: float

    @property
    def message(self) -> str:
        """POV-Ray's first complaint, on one line."""
        found = _FATAL.search(re.sub(r"\n ", " ", self.said))
        if found is not None:
            return found[1]
        return (self.said.strip().splitlines() or ["POV-Ray said nothing"])[-1]


@dataclass(frozen=True, slots=True)
class Bench:
    """What one verdict needs: the farm, a folder to work in, how long a render may take."""

    farm: StandingFarm
    work: Path
    timeout_s: float = 300.0
    commit: str = ""

    def measure(self, scene: Scene, settings: Settings) -> Result:
        """Render both ways and judge."""
        with tempfile.TemporaryDirectory(prefix="scene-", dir=self.work) as private:
            return _Case(self, scene, settings, Path(private)).judge()


@dataclass(frozen=True, slots=True)
class _Case:
    """One scene with one setting, in a private folder."""

    bench: Bench
    scene: Scene
    settings: Settings
    private: Path

    def judge(self) -> Result:
        plain = self._plain("+WT1", ("+WT1",))
        if plain.code is None:
            return self._result("too slow", plain, message=f"plain: {_late(self.bench)}")
        began_at = time.monotonic()
        submitted = self._submit()
        spent = time.monotonic() - began_at
        if submitted.code is None:
            return self._result("too slow", plain, spent, message=f"farm: {_late(self.bench)}")
        if plain.code or submitted.code:
            return self._without_both(plain, submitted, spent)
        bands = self.bench.farm.bands_of(submitted.job)
        return self._compared(plain, spent, bands)

    def _without_both(self, plain: PlainRun, submitted: Submitted, spent: float) -> Result:
        complaint = farm_message(submitted.said)
        if not plain.code:
            return self._result("different", plain, spent, message=f"farm only: {complaint}")
        if not submitted.code:
            return self._result("different", plain, spent, message=f"plain only: {plain.message}")
        if is_alike(complaint, plain.said):
            return self._result("alike", plain, spent, message=plain.message)
        both = f"plain: {plain.message}; farm: {complaint}"
        return self._result("different", plain, spent, message=both)

    def _compared(self, plain: PlainRun, spent: float, bands: int) -> Result:
        whole, joined = self._picture("+WT1"), self._picture("farm")
        try:
            farm = _gap(compare(whole, joined))
        except ValueError as fault:
            return self._result("different", plain, spent, bands=bands, message=str(fault))
        if not farm.pixels:
            return self._result("identical", plain, spent, bands=bands)
        probes = dict(self._probe(THREAD_PROBES))
        noisy = any(gap.pixels for gap in probes.values())
        if not noisy:
            probes |= dict(self._probe(ORDER_PROBES))
        return self._result(
            "within noise" if noisy else "different",
            plain,
            spent,
            bands=bands,
            farm=farm,
            probes=probes,
            places=tuple(differing_places(whole, joined, _MOST_PLACES)),
        )

    def _probe(self, probes: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, Gap]]:
        for name, words in probes.items():
            if self._plain(name, words).code == 0:
                yield name, _gap(compare(self._picture("+WT1"), self._picture(name)))

    def _plain(self, name: str, words: tuple[str, ...]) -> PlainRun:
        """Run POV-Ray as a person would, Debian's own defaults in force."""
        folder = self._staged(name)
        entry = self.scene.entry
        start = [entry] if entry.endswith(".ini") else [f"+I{entry}"]
        options = [*self.settings.options, *self.scene.options, "+FN8", *words]
        output = f"+O{self._picture(name)}"
        return self._povray(folder, [*start, *options, output])

    def _povray(self, folder: Path, words: list[str]) -> PlainRun:
        return run_povray(self.bench.farm.programs, folder, words, self.bench.timeout_s)

    def _submit(self) -> Submitted:
        return self.bench.farm.submit(
            self._staged("farm") / self.scene.entry,
            self._picture("farm"),
            [*self.settings.options, *self.scene.options],
            self.bench.timeout_s,
            only_needed=self.settings.found_alone,
        )

    def _staged(self, name: str) -> Path:
        """Give the scene's folder for one run, with what must be made before."""
        place = self.private / f"folder {name}".replace(" ", "-").replace("+", "")
        folder = self.scene.stage(place)
        if self.scene.made_first and not self._made(folder).exists():
            self._povray(folder, [*self.scene.made_first, "+WT1"])
        return folder

    def _made(self, folder: Path) -> Path:
        (name,) = (word[2:] for word in self.scene.made_first if word.startswith("+O"))
        return folder / name

    def _picture(self, name: str) -> Path:
        return self.private / f"{name.replace(' ', '-').replace('+', '')}.png"

    def _result(
        self,
        verdict: Verdict,
        plain: PlainRun,
        farm_s: float = 0.0,
        *,
        bands: int = 0,
        farm: Gap = NO_GAP,
        probes: dict[str, Gap] | None = None,
        places: tuple[tuple[int, int], ...] = (),
        message: str = "",
    ) -> Result:
        return Result(
            scene=self.scene.name,
            settings=self.settings,
            verdict=verdict,
            bands=bands,
            farm=farm,
            probes=probes or {},
            places=places,
            message=message,
            plain_s=round(plain.seconds, 2),
            farm_s=round(farm_s, 2),
            povray=povray_version(plain.said),
            commit=self.bench.commit,
        )


def run_povray(
    programs: Programs, folder: Path, words: Iterable[str], timeout_s: float
) -> PlainRun:
    """Run POV-Ray in ``folder``; one that takes longer than ``timeout_s`` is ended."""
    began_at = time.monotonic()
    ended = programs.run(["povray", *words, "-D", "-P"], timeout_s=timeout_s, folder=folder)
    spent = time.monotonic() - began_at
    return PlainRun(ended.code, ended.stderr.decode("latin-1"), spent)


def povray_version(said: str) -> str:
    """Give the version from POV-Ray's banner, "" if there is none."""
    found = re.search(r"Persistence of Vision\(tm\) Ray Tracer Version (\S+)", said)
    return "" if found is None else found[1]


def farm_message(said: str) -> str:
    """Give what the submitter complained of, without the file and line before it."""
    found = _SAID_BY_FARM.findall(said)
    return str(found[-1]) if found else (said.strip().splitlines() or ["nothing was said"])[-1]


def is_alike(complaint: str, said: str) -> bool:
    """Tell whether the farm's complaint is POV-Ray's own, however POV-Ray broke its lines.

    Of a missing file the submitter speaks before anything is sent, in its own words: then it must
    be one that POV-Ray misses too.
    """
    bare = re.sub(r"\s", "", complaint)
    if bare and bare in re.sub(r"\s", "", said):
        return True
    missing = _MISSING.findall(said)
    return "which is nowhere" in complaint and any(f" {name}," in complaint for name in missing)


def differing_places(first: Path, second: Path, most: int) -> Iterator[tuple[int, int]]:
    """Give the first ``most`` pixels, as x and y, in which two pictures of one size differ."""
    with Image.open(first) as one, Image.open(second) as other:
        mine, theirs = one.convert("RGBA"), other.convert("RGBA")
    for y in range(mine.height):
        for x in range(mine.width):
            if mine.getpixel((x, y)) == theirs.getpixel((x, y)):
                continue
            yield x, y
            most -= 1
            if not most:
                return


def read_results(file: Path) -> dict[tuple[str, Settings], Result]:
    """Read what was measured before; of two results for one key the later counts."""
    if not file.exists():
        return {}
    results = {}
    for line in file.read_bytes().splitlines():
        try:
            result = msgspec.json.decode(line, type=Result)
        except msgspec.DecodeError:
            # The last line of a run that was killed while it wrote; measured again.
            continue
        results[result.key] = result
    return results


def append_result(file: Path, result: Result) -> None:
    """Add one line to the file of results."""
    with file.open("a+b") as lines:
        torn = _ends_torn(lines)
        lines.write((b"\n" if torn else b"") + msgspec.json.encode(result) + b"\n")


def has_povray() -> bool:
    """Tell whether POV-Ray is installed."""
    return shutil.which("povray") is not None


def _ends_torn(lines: BinaryIO) -> bool:
    """Tell whether the last line was cut off by the end of the program that wrote it."""
    if lines.seek(0, os.SEEK_END) == 0:
        return False
    lines.seek(-1, os.SEEK_END)
    return lines.read(1) != b"\n"


def _gap(difference: Difference) -> Gap:
    return Gap(difference.pixels, difference.largest)


def _late(bench: Bench) -> str:
    return f"not ready after {bench.timeout_s:g} s"
