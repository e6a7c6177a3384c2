"""A farm that is hurt again and again while it renders, and what is to be said of it afterwards.

Responsible for setting the stage (a head, four nodes, each on a cable of its own, a queue of real
scenes), for the judgement in the end, and for the figures. What befalls the farm is in ``faults``
and ``injector``, its pictures are in ``render_queue``.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cable import Cable
from faults import KINDS, SUBMITTERS, schedule
from footprint import (
    HEAD_KINDS,
    NODE_KINDS,
    Footprint,
    file_faults,
    files_by_kind,
    footprints_of,
    povrays_below,
    processes_within,
)
from injector import HeadKills, Injector
from programs import Programs
from render_queue import Order, RenderQueue, plain_orders
from standing_farm import StandingFarm

from clusterray.wire.trust import JoinToken

HEAD_HOST = "127.0.0.1"
NEAR_ENDS = "127.0.0.1{number}"
"""Where the head seems to be to each node, and to submitters: the near end of their cable."""
SILENT_S = 16.0
"""The head's own default, which a long fault outlasts."""
THREADS = {"node-1": 1, "node-2": 1, "node-3": 2, "node-4": 1}
DRAIN_S = 3
_PASSIVE_PORTS = 24
_PASSIVE_FROM = range(20000, 30000, _PASSIVE_PORTS)
_SETTLE_S = 90.0
_QUIET_S = 1.0
_WARM_UP_TRIES = 20
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for: faults drawn from ``seed`` until there are enough or the time is over.

    ``size`` is the pictures', before each scene's own factor; ``at_a_time`` jobs are open, each for
    at most ``timeout_s``.
    """

    seed: int
    faults: int | None
    seconds: float | None
    size: tuple[int, int]
    at_a_time: int = 3
    timeout_s: float = 1800.0

    def is_enough(self, faults: int, next_at_s: float) -> bool:
        """Tell whether no further fault is wanted."""
        if self.faults is not None and faults >= self.faults:
            return True
        return self.seconds is not None and next_at_s > self.seconds


@dataclass(slots=True)
class Work:
    """What ``clusterray show`` tells of all jobs together.

    ``attempts`` are counted by their state; ``again`` counts bands that needed more than one,
    ``wasted_s`` the seconds of plain POV-Ray's computing that went into pixels that did not count,
    ``counted_s`` those that did.
    """

    jobs: int = 0
    bands: int = 0
    again: int = 0
    attempts: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    wasted_s: float = 0.0
    counted_s: float = 0.0


@dataclass(slots=True)
class Found:
    """What a run gave; each entry of ``wrong`` is a sentence, the rest are figures."""

    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    schedule: list[str] = field(default_factory=list)
    made: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    turned_away: int = 0
    work: Work = field(default_factory=Work)
    head_kills: HeadKills = field(default_factory=HeadKills)
    before: dict[str, Footprint] = field(default_factory=dict)
    after: dict[str, Footprint] = field(default_factory=dict)
    files: Counter[str] = field(default_factory=Counter)


class Chaos:
    """One run in ``folder``, with temporary files in ``temporary``; ``tell`` takes a line."""

    def __init__(
        self, plan: Plan, folder: Path, temporary: Path, tell: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._temporary = temporary
        self._tell = tell
        self._found = Found()
        self._programs = Programs()

    def run(self) -> Found:
        """Render in peace, then in chaos, then judge; nothing runs afterwards, come what may."""
        found = self._found
        try:
            orders = plain_orders(
                self._folder / "plain", self._plan.size, self._programs, self._tell
            )
            with self._farm() as (farm, cables):
                queue = RenderQueue(
                    farm,
                    _token(farm, "submit", cables[SUBMITTERS]),
                    self._folder / "pictures",
                    orders,
                    self._plan.at_a_time,
                    self._plan.seed,
                    self._plan.timeout_s,
                    self._tell,
                )
                self._warm_up(farm, orders)
                found.before = self._settled(farm)
                self._hurt(farm, cables, queue)
                self._judge(farm, queue, orders)
        except BaseException:
            self._programs.end_all()
            raise
        found.wrong += _left_running(self._folder)
        return found

    # ------------------------------------------------------------ the stage

    @contextmanager
    def _farm(self) -> Iterator[tuple[StandingFarm, dict[str, Cable]]]:
        first = _free_passive_ports()
        passive = range(first, first + _PASSIVE_PORTS)
        words = ["--passive-ports", f"{passive[0]}-{passive[-1]}"]
        nodes = ["--drain-s", str(DRAIN_S)]
        farm = StandingFarm(
            self._folder, (), self._programs, words, nodes, self._found.head_kills.hear
        )
        # The cables outlive the farm, so that the nodes can say good-bye.
        with ExitStack() as cables, farm:
            strung = {
                name: cables.enter_context(
                    Cable(
                        NEAR_ENDS.format(number=number), HEAD_HOST, [*farm.ports.values(), *passive]
                    )
                )
                for number, name in enumerate((*THREADS, SUBMITTERS), start=1)
            }
            for name, threads in THREADS.items():
                farm.add_node(name, threads, _token(farm, "node", strung[name]))
            farm.wait_for_nodes()
            yield farm, strung

    def _warm_up(self, farm: StandingFarm, orders: Sequence[Order]) -> None:
        """Render until each node has delivered: idle then means what it means after work."""
        quickest = min(orders, key=lambda order: order.cpu_s)
        for number in range(_WARM_UP_TRIES):
            picture = self._folder / f"warm-up-{number}.png"
            scene = quickest.scene.stage(picture.with_suffix("")) / quickest.scene.entry
            done = farm.submit(
                scene, picture, quickest.options, self._plan.timeout_s, only_needed=True
            )
            if done.code != 0:
                raise RuntimeError(f"the farm does not render in peace: {done.said[-500:]}")
            if all(node["bands_done"] for node in farm.ask("nodes")):
                return
        raise RuntimeError("in peace, one of the nodes gets no band")

    def _hurt(self, farm: StandingFarm, cables: dict[str, Cable], queue: RenderQueue) -> None:
        found, plan = self._found, self._plan
        injector = Injector(farm, cables, queue, found.head_kills, self._tell)
        # The same objects, so that they are known also of a run that breaks off.
        found.schedule, found.made, found.missed = (
            injector.schedule,
            injector.made,
            injector.missed,
        )
        began_at = time.monotonic()
        try:
            queue.start()
            injector.run(schedule(plan.seed, list(THREADS), SILENT_S), plan.is_enough)
            self._tell("no more faults; what is submitted is rendered to its end")
            queue.finish()
        except BaseException:
            self._programs.end_all()
            raise
        finally:
            injector.release()
            queue.give_up()
        found.seconds = time.monotonic() - began_at
        found.wrong += injector.wrong + queue.wrong

    # ------------------------------------------------------------ the judgement

    def _judge(self, farm: StandingFarm, queue: RenderQueue, orders: Sequence[Order]) -> None:
        found = self._found
        found.pictures, found.turned_away = len(queue.rendered), queue.turned_away
        found.after = self._settled(farm, found.before)
        found.wrong += leak_faults(found.before, found.after)
        jobs = farm.ask("jobs")
        found.work = self._work(farm, queue, jobs)
        found.wrong += [
            f"job {job['id']} is {job['state']} in the end: {job['error'] or job['note']}"
            for job in jobs
            if job["state"] != "done"
        ]
        for node in farm.ask("nodes"):
            if node["state"] != "idle":
                found.wrong.append(f"{node['name']} is {node['state']}: {node['reason']}")
        for daemon in farm.nodes.values():
            if left := povrays_below(daemon.pid):
                found.wrong.append(f"{daemon.name} is idle and has POV-Rays: {left}")
        found.files = self._files(farm)
        found.wrong += file_faults(found.files, _most_files(len(jobs), len(orders)))
        found.wrong += _unknown_jobs(farm, {str(job["id"]) for job in jobs})

    def _work(self, farm: StandingFarm, queue: RenderQueue, jobs: Sequence[Any]) -> Work:
        costs = {each.job: each.order.cpu_s for each in queue.rendered}
        work = Work(jobs=len(jobs))
        for job in jobs:
            shown = farm.ask("show", job["id"])
            bands = shown["bands"]
            work.bands += len(bands)
            work.again += sum(len(band["attempts"]) > 1 for band in bands)
            work.attempts.update(one["state"] for band in bands for one in band["attempts"])
            work.dropped += job["dropped_results"]
            cost = costs.get(job["id"], 0.0)
            work.wasted_s += cost * job["wasted_pixels"] / job["pixels_total"]
            work.counted_s += cost
        return work

    def _files(self, farm: StandingFarm) -> Counter[str]:
        count = files_by_kind(farm.state, HEAD_KINDS)
        for node in farm.nodes:
            count += files_by_kind(farm.work_of(node), NODE_KINDS)
        count["temporary files"] = sum(1 for _ in self._temporary.iterdir())
        return count

    def _settled(
        self, farm: StandingFarm, before: Mapping[str, Footprint] | None = None
    ) -> dict[str, Footprint]:
        """Give the footprints of the idle farm.

        Idle it is when they are no larger than ``before``, or, if there is none, stay the same.
        """
        give_up_at = time.monotonic() + _SETTLE_S
        last: dict[str, Footprint] = {}
        while time.monotonic() < give_up_at:
            now = footprints_of(_pids(farm))
            if before is None and last and _exact(now) == _exact(last):
                return now
            is_idle = before is not None and not leak_faults(before, now)
            if is_idle and all(node["state"] == "idle" for node in farm.ask("nodes")):
                return now
            last = now
            time.sleep(_QUIET_S)
        return last


def _token(farm: StandingFarm, role: str, cable: Cable) -> str:
    """Give the head's token for a role, as if the head were at the near end of ``cable``."""
    token = JoinToken.decode(Path(farm.token(role)).read_text("ascii"))
    return replace(token, host=cable.near).encode()


def leak_faults(before: Mapping[str, Footprint], after: Mapping[str, Footprint]) -> list[str]:
    """Say which idle daemon has more threads or descriptors than it had when idle before.

    One that was started again since and has not worked yet has less.
    """
    faults = [f"{name} is gone" for name in before if name not in after]
    for name, last in after.items():
        first = before[name]
        # A node's second thread that renders keeps an FTP session from its first file on: a
        # descriptor of the node's, and of the head's.
        kept = 1 if name.startswith("node") else sum(node.startswith("node") for node in after)
        if last.threads > first.threads or last.descriptors > first.descriptors + kept:
            faults.append(
                f"{name} idle: {first.threads} threads and {first.descriptors} descriptors before, "
                f"{last.threads} and {last.descriptors} after"
            )
    return faults


def _most_files(jobs: int, scenes: int) -> dict[str, int]:
    """Give how many files of each kind may be there when all jobs are done.

    Logs and cached files are not counted here: an attempt more, or a larger scene, is no fault.
    """
    anything = 1 << 30
    return {
        "the head's own": len(HEAD_KINDS),
        "the store": 3,
        "scenes": 2 * scenes + 1,
        "pictures": 2 * jobs,
        "logs": anything,
        "the node's own": 3 * len(THREADS),
        "cached scenes": anything,
        "cached light": 8 * len(THREADS),
        "kept blocks": anything,
    }


def _unknown_jobs(farm: StandingFarm, jobs: set[str]) -> list[str]:
    """Say which folders at the head are of no job that it knows."""
    folders = [
        folder
        for kind in ("results", "logs")
        for folder in (farm.state / kind).iterdir()
        if folder.name not in jobs
    ]
    return [f"{folder} is of no job" for folder in folders]


def _left_running(folder: Path) -> list[str]:
    """Say which processes of the farm run though it has ended."""
    give_up_at = time.monotonic() + _GRACE_S
    while left := processes_within(folder):
        if time.monotonic() > give_up_at:
            return [f"still runs after the end: {process}" for process in left]
    return []


def _pids(farm: StandingFarm) -> dict[str, int]:
    return {"head": farm.head.pid, **{name: node.pid for name, node in farm.nodes.items()}}


def _exact(footprints: Mapping[str, Footprint]) -> dict[str, tuple[int, int]]:
    return {name: each.exact for name, each in footprints.items()}


def _free_passive_ports() -> int:
    """Find a range of ports that nobody listens on, and give its first."""
    for first in _PASSIVE_FROM:
        try:
            with ExitStack() as taken:
                for port in range(first, first + _PASSIVE_PORTS):
                    taken.enter_context(socket.create_server(("", port)))
        except OSError:
            continue
        return first
    raise RuntimeError(f"no {_PASSIVE_PORTS} ports in a row are free")


# ---------------------------------------------------------------- telling


def tables(found: Found) -> Iterable[str]:
    """Give the figures in Markdown."""
    yield "| fault | brought about | nothing there |"
    yield "| --- | --- | --- |"
    for kind in KINDS:
        yield f"| {kind} | {found.made[kind]} | {found.missed[kind] or ''} |"
    yield f"| all | {found.made.total()} | {found.missed.total() or ''} |"
    yield ""
    work = found.work
    states = ", ".join(f"{count} {state}" for state, count in work.attempts.most_common())
    yield f"{found.pictures} pictures of {work.jobs} jobs, in {work.bands} bands."
    yield f"{found.turned_away} submits found no head in their first 10 s and were made again."
    yield f"{work.attempts.total()} attempts: {states}."
    yield (
        f"{work.again} bands were rendered more than once; {work.wasted_s:.0f} s of computing did "
        f"not count, beside {work.counted_s:.0f} s that did; {work.dropped} tiles came too late."
    )
    yield ""
    yield "| after a kill of the head | median | most | measured |"
    yield "| --- | --- | --- | --- |"
    for what, name in (
        ("it is ready again", "ready_at"),
        ("the first node is back", "joined_at"),
        ("a band is handed out again", "leased_at"),
    ):
        times = found.head_kills.seconds(name)
        if times:
            middle = statistics.median(times)
            yield f"| {what} | {middle:.1f} s | {times[-1]:.1f} s | {len(times)} |"
    yield ""
    yield "| daemon, idle | threads before | after | descriptors before | after | memory after |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, before in found.before.items():
        if after := found.after.get(name):
            yield (
                f"| {name} | {before.threads} | {after.threads} | {before.descriptors} "
                f"| {after.descriptors} | {after.rss / 1e6:.1f} MB |"
            )
    yield ""
    yield f"Files: {', '.join(f'{count} {kind}' for kind, count in sorted(found.files.items()))}."
