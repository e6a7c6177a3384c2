"""A farm under thousands of small jobs: does each give its picture, and does anything grow?

Responsible for the jobs, for what is measured while they run, and for the judgement. The jobs are
submitted by the client's own rooms over the real wire, several at a time, by threads of this
process. What the daemons keep on purpose is bounded by their settings to a small part of the run,
so that whatever goes on growing is a leak.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from compare_pictures import compare
from footprint import (
    HEAD_KINDS,
    NODE_KINDS,
    Footprint,
    file_faults,
    files_by_kind,
    footprints_of,
)
from programs import Programs
from standing_farm import StandingFarm

from clusterray.client.head_link import HeadLink, HeadLost
from clusterray.client.report import Advance
from clusterray.client.submit import Submission, SubmitOptions, prepare
from clusterray.core.errors import ClusterRayError
from clusterray.wire.protocol import JobView
from clusterray.wire.trust import JoinToken

WIDTH, HEIGHT = 32, 64
BANDS = 2
"""One for each render block, so that two nodes may share a picture."""
SUBMITTERS = "submitters"
"""This process, in which all of them are threads; what it keeps of the run is not judged."""
MAY_GROW = 0.03
MAY_GROW_BYTES = 1 << 20
"""By so much the median memory of a process may move from the second quarter of a run to the last
without being called growth: the allocator's own comings and goings are of that size."""
_SAMPLE_S = 1.0
_TELL_S = 10.0
_SETTLE_S = 90.0
_QUIET_S = 2.0
_PLAIN_S = 3600.0
_CACHED_SCENES = 10

_SCENE = """\
#version 3.7;
#declare Number = {number};
global_settings {{ assumed_gamma 1 }}
camera {{ orthographic location <0, 0, -10> right 2*x up 4*y look_at 0 }}
light_source {{ <-6, 8, -10> rgb 1 }}
#declare Colour = <mod(Number, 10), mod(floor(Number/10), 10), mod(floor(Number/100), 10)>/9;
sphere {{ <0, mod(Number, 7)/4, 0>, 0.9 pigment {{ rgb 0.2 + 0.8*Colour }} finish {{ phong 0.6 }} }}
// The number itself, as bits that no light changes.
#declare Bit = 0;
#while (Bit < 16)
  box {{
    <-1 + Bit/8, -2, -2>, <-1 + (Bit + 1)/8, -1.5, -1.9>
    pigment {{ rgb 0.1 + 0.8*mod(floor(Number/pow(2, Bit)), 2) }} finish {{ ambient 1 diffuse 0 }}
  }}
  #declare Bit = Bit + 1;
#end
"""
_TAR_BLOCK = 512
_TAR_BYTES = (3 + -(-len(_SCENE) // _TAR_BLOCK)) * _TAR_BLOCK
"""Of one scene at the head: a header, its file, and two blocks that end a tar."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many jobs, how many nodes of one thread, how many jobs at a time, what is kept.

    Jobs come in an order and with pauses drawn from ``seed``. ``kept_jobs`` is how many the head
    may remember, ``warm_up`` how many run before anything is measured.
    """

    jobs: int
    nodes: int
    at_a_time: int
    seed: int

    @property
    def kept_jobs(self) -> int:
        """Those that are open, and a twentieth of the run."""
        return self.at_a_time + max(4, self.jobs // 20)

    @property
    def warm_up(self) -> int:
        """Until what is kept is as much as it ever will be, and every node has worked."""
        return min(self.jobs // 2, self.kept_jobs + 2 * self.nodes)

    @property
    def head_words(self) -> list[str]:
        """The head's settings that bound what it keeps."""
        room = self.kept_jobs * _TAR_BYTES
        return ["--max-jobs", str(self.kept_jobs), "--scene-store-bytes", str(room)]

    @property
    def node_words(self) -> list[str]:
        """The nodes' likewise: some scenes."""
        return ["--scene-cache-bytes", f"{_CACHED_SCENES * len(_SCENE)}"]

    @property
    def most_files(self) -> dict[str, int]:
        """How many files of each kind may be there when nothing is to be done.

        That follows from the settings: a picture has its fidelity beside it, each of its bands a
        log, a scene its manifest; the store has a folder for uploads, a cache its stamp.
        """
        return {
            "the head's own": len(HEAD_KINDS),
            "the store": 3,
            "scenes": 2 * self.kept_jobs + 1,
            "pictures": 2 * self.kept_jobs,
            "logs": BANDS * self.kept_jobs,
            "the node's own": 3 * self.nodes,
            # Each with its manifest.
            "cached scenes": 2 * (_CACHED_SCENES + 1) * self.nodes,
        }


@dataclass(frozen=True, slots=True)
class Sample:
    """What each process took when so many jobs were done, and the files by kind."""

    done: int
    processes: Mapping[str, Footprint]
    files: Mapping[str, int]


@dataclass(slots=True)
class Found:
    """What a run gave: each judgement a sentence in ``faults``, the rest are figures."""

    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    idle_before: dict[str, Footprint] = field(default_factory=dict)
    idle_after: dict[str, Footprint] = field(default_factory=dict)
    files_left: Counter[str] = field(default_factory=Counter)


class Silent:
    """The report of a submitter that nobody watches (client.report.Report)."""

    def say(self, sentence: str) -> None:
        """Say nothing."""

    def lines(self, lines: list[str]) -> None:
        """Show nothing."""

    def transfer(self, verb: str, total: int) -> AbstractContextManager[Advance]:
        """Count nothing."""
        return nullcontext(lambda moved: None)

    def job(self, view: JobView, sentence: str) -> None:
        """Draw nothing."""

    def close(self) -> None:
        """There is nothing to take away."""


class Soak:
    """One run in ``folder``; ``tell`` takes a line for the person now and then."""

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._folder = folder
        self._tell = tell
        self._found = Found()
        self._numbers = list(range(1, plan.jobs + 1))
        random.Random(plan.seed).shuffle(self._numbers)
        self._programs = Programs()
        self._over = threading.Event()
        self._done = 0
        self._token: JoinToken | None = None

    def run(self) -> Found:
        """Run all jobs, measure and judge; whatever happens, nothing of it runs afterwards."""
        self._write_scenes()
        with ThreadPoolExecutor(1, "plain") as plain, self._ended_in_time():
            expected = plain.submit(self._render_plain)
            with StandingFarm(
                self._folder,
                (1,) * self._plan.nodes,
                self._programs,
                self._plan.head_words,
                self._plan.node_words,
            ) as farm:
                self._token = JoinToken.decode(Path(farm.token("submit")).read_text("ascii"))
                self._on(farm)
            self._tell("comparing the pictures with plain povray's")
            expected.result()
            self._compare()
        return self._found

    @contextlib.contextmanager
    def _ended_in_time(self) -> Iterator[None]:
        """Let the threads end when the run is given up."""
        try:
            yield
        except BaseException:
            self._over.set()
            self._programs.end_all()
            raise

    def _on(self, farm: StandingFarm) -> None:
        found, warm = self._found, self._plan.warm_up
        began_at = time.monotonic()
        with self._telling(farm):
            self._submit_all(self._numbers[:warm])
            found.idle_before = self._settled(farm, None)
            with self._sampling(farm):
                self._submit_all(self._numbers[warm:])
            found.seconds = time.monotonic() - began_at
            found.idle_after = self._settled(farm, found.idle_before)
        found.files_left = self._files(farm)
        found.faults += leak_faults(found.idle_before, found.idle_after)
        found.faults += growth_faults(found.samples)
        found.faults += file_faults(found.files_left, self._plan.most_files)

    # ------------------------------------------------------------ the jobs

    def _submit_all(self, numbers: Sequence[int]) -> None:
        pool = ThreadPoolExecutor(self._plan.at_a_time, "submitter")
        try:
            for future in as_completed([pool.submit(self._submit, number) for number in numbers]):
                future.result()
                self._done += 1
        except BaseException:
            self._over.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _submit(self, number: int) -> None:
        """Be one submitter, from the folder to the picture."""
        report = Silent()
        options = SubmitOptions(
            scene=self._scene(number), width=WIDTH, height=HEIGHT, out=str(self._picture(number))
        )
        try:
            with HeadLink(self._find_token, look=self._look) as head:
                submission = Submission(head, prepare(options, report), report)
                head.open()
                submission.read_scene()
                submission.send()
                submission.finish()
        except (ClusterRayError, HeadLost) as fault:
            self._found.wrong.append(f"job of picture {number}: {fault}")

    def _find_token(self) -> JoinToken:
        assert self._token is not None
        return self._token

    def _look(self) -> None:
        if self._over.is_set():
            raise HeadLost("the run is over")

    def _write_scenes(self) -> None:
        for number in self._numbers:
            self._scene(number).parent.mkdir(parents=True)
            self._scene(number).write_text(_SCENE.format(number=number), "ascii")
        for folder in (self._picture(1).parent, self._plain_folder()):
            folder.mkdir()
        film = _SCENE.format(number="frame_number")
        (self._plain_folder() / "p.pov").write_text(film, "ascii")

    def _scene(self, number: int) -> Path:
        return self._folder / "scenes" / f"{number}" / f"ball-{number}.pov"

    def _picture(self, number: int) -> Path:
        return self._folder / "pictures" / f"{number}.png"

    def _plain_folder(self) -> Path:
        return self._folder / "plain"

    # ------------------------------------------------------------ what they should be

    def _render_plain(self) -> None:
        """Have plain POV-Ray render all the pictures, as the frames of one film."""
        command = ["nice", "-n", "5", "povray", "+Ip.pov", f"+W{WIDTH}", f"+H{HEIGHT}"]
        command += ["+KFI1", f"+KFF{self._plan.jobs}", "+FN8", "+WT1", "-D", "-P", "-GA"]
        ended = self._programs.run(command, timeout_s=_PLAIN_S, folder=self._plain_folder())
        if ended.code and not self._over.is_set():
            said = ended.stderr.decode("latin-1")[-500:]
            raise RuntimeError(f"plain povray did not render the pictures: {said}")

    def _compare(self) -> None:
        digits = len(str(self._plan.jobs))
        for number in sorted(self._numbers):
            plain = self._plain_folder() / f"p{number:0{digits}}.png"
            try:
                pixels = compare(plain, self._picture(number)).pixels
            except (OSError, ValueError) as fault:
                self._found.wrong.append(f"picture {number}: {fault}")
                continue
            if pixels:
                self._found.wrong.append(f"picture {number}: {pixels} pixels differ")

    # ------------------------------------------------------------ what it takes

    @contextlib.contextmanager
    def _sampling(self, farm: StandingFarm) -> Iterator[None]:
        with _repeated(_SAMPLE_S, lambda: self._found.samples.append(self._sample(farm))):
            yield

    @contextlib.contextmanager
    def _telling(self, farm: StandingFarm) -> Iterator[None]:
        began_at = time.monotonic()

        def tell() -> None:
            spent = time.monotonic() - began_at
            taken = footprints_of(_pids(farm))
            self._tell(f"{self._done}/{self._plan.jobs} jobs in {spent:.0f} s; {_in_words(taken)}")

        with _repeated(_TELL_S, tell):
            yield

    def _sample(self, farm: StandingFarm) -> Sample:
        return Sample(self._done, footprints_of(_pids(farm)), self._files(farm))

    def _files(self, farm: StandingFarm) -> Counter[str]:
        count = files_by_kind(farm.state, HEAD_KINDS)
        for node in farm.nodes:
            count += files_by_kind(farm.work_of(node), NODE_KINDS)
        temporary = os.environ["TMPDIR"]
        count["temporary files"] = sum(1 for _ in Path(temporary).iterdir())
        return count

    def _settled(
        self, farm: StandingFarm, before: Mapping[str, Footprint] | None
    ) -> dict[str, Footprint]:
        """Give the footprints of the idle farm.

        Idle it is when threads and descriptors are those ``before``, or, if there is none, when
        they stay the same for a while. What never comes about is the caller's to judge.
        """
        give_up_at = time.monotonic() + _SETTLE_S
        last: dict[str, Footprint] = {}
        while time.monotonic() < give_up_at:
            now = footprints_of(_pids(farm))
            wanted = last if before is None else before
            if wanted and not leak_faults(wanted, now):
                return now
            last = now
            time.sleep(_QUIET_S)
        return last


# ---------------------------------------------------------------- judging


def leak_faults(before: Mapping[str, Footprint], after: Mapping[str, Footprint]) -> list[str]:
    """Say which idle process has not the threads and descriptors that it had when idle before."""
    faults = []
    for name, first in before.items():
        last = after.get(name)
        if last is None:
            faults.append(f"{name} is gone")
        elif name == SUBMITTERS and last.threads <= first.threads:
            # Of the plain POV-Ray beside them this process holds pipes, until it ends.
            if last.descriptors > first.descriptors:
                faults.append(f"{name}: {last.descriptors} descriptors, not {first.descriptors}")
        elif last.exact != first.exact:
            faults.append(
                f"{name} idle: {first.threads} threads and {first.descriptors} descriptors before, "
                f"{last.threads} and {last.descriptors} after"
            )
    return faults


def quarters(samples: Sequence[Sample], name: str) -> tuple[float, float] | None:
    """Give a process's median memory in the second and the last quarter of the jobs measured.

    In bytes; None if a quarter has no sample.
    """
    if not samples:
        return None
    first, last = samples[0].done, samples[-1].done
    parts: dict[int, list[int]] = {1: [], 3: []}
    for sample in samples:
        part = min(3, 4 * (sample.done - first) // max(1, last - first))
        if part in parts and name in sample.processes:
            parts[part].append(sample.processes[name].rss)
    if not all(parts.values()):
        return None
    return statistics.median(parts[1]), statistics.median(parts[3])


def growth_faults(samples: Sequence[Sample]) -> list[str]:
    """Say which daemon's memory grew after the first quarter, when all it keeps was full."""
    faults = []
    for name in samples[-1].processes if samples else ():
        found = quarters(samples, name)
        if found is None or name == SUBMITTERS:
            continue
        early, late = found
        if late > early * (1 + MAY_GROW) + MAY_GROW_BYTES:
            faults.append(f"{name} grew from {early / 1e6:.1f} to {late / 1e6:.1f} MB")
    return faults


def _pids(farm: StandingFarm) -> dict[str, int]:
    nodes = {name: node.pid for name, node in farm.nodes.items()}
    return {"head": farm.head.pid, **nodes, SUBMITTERS: os.getpid()}


def _in_words(taken: Mapping[str, Footprint]) -> str:
    head = taken.get("head")
    nodes = [each for name, each in taken.items() if name.startswith("node-")]
    if head is None or not nodes:
        return "not all daemons are there"
    mean = statistics.fmean(node.rss for node in nodes) / 1e6
    threads = sum(node.threads for node in nodes)
    descriptors = sum(node.descriptors for node in nodes)
    return (
        f"head {head.rss / 1e6:.1f} MB, {head.threads} threads, {head.descriptors} descriptors; "
        f"nodes {mean:.1f} MB each, {threads} threads, {descriptors} descriptors in all"
    )


@contextlib.contextmanager
def _repeated(every_s: float, act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` on a thread of its own, now and then and once more in the end."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(every_s):
            act()
        act()

    thread = threading.Thread(target=repeat, name="now and then")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# ---------------------------------------------------------------- telling


def table(found: Found) -> Iterable[str]:
    """Give the figures as a table of Markdown: memory, threads, descriptors, files."""
    yield "| process | memory, 2nd quarter | last quarter | threads idle | descriptors idle |"
    yield "| --- | --- | --- | --- | --- |"
    for name, before in found.idle_before.items():
        after = found.idle_after.get(name)
        memory = quarters(found.samples, name)
        early, late = ("?", "?") if memory is None else (f"{m / 1e6:.1f} MB" for m in memory)
        threads, descriptors = ("gone", "gone") if after is None else map(str, after.exact)
        yield (
            f"| {name} | {early} | {late} | {before.threads}, then {threads} "
            f"| {before.descriptors}, then {descriptors} |"
        )
    yield ""
    yield "| files | most at a time, first half | second half | in the end |"
    yield "| --- | --- | --- | --- |"
    middle = len(found.samples) // 2
    for kind in sorted({kind for sample in found.samples for kind in sample.files}):
        halves = (found.samples[:middle], found.samples[middle:])
        most = [max((s.files.get(kind, 0) for s in half), default=0) for half in halves]
        yield f"| {kind} | {most[0]} | {most[1]} | {found.files_left.get(kind, 0)} |"
