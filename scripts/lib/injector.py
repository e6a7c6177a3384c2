"""Brings faults about, one after another, and mends them when their time is over.

The thread that calls ``run`` alone. Signals only processes that the farm has started, by their ids.
Knows how each fault is made and what must be so right after it; the queue's pictures and what the
farm keeps are judged elsewhere.
"""

from __future__ import annotations

import heapq
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import psutil
from cable import Cable
from faults import Fault
from footprint import povrays_below
from render_queue import RenderQueue
from standing_farm import StandingFarm

_GONE_S = 3.0
"""A daemon that dies takes its POV-Rays with it within this time."""
_DRAIN_S = 30.0
_SEEN_WITHIN_S = 2.0
"""So long is waited for a POV-Ray to kill."""
_LOOK_S = 0.05

Mend = Callable[[], None]


@dataclass(slots=True)
class HeadKill:
    """Monotonic seconds of a kill of the head and of what first came after it, None if nothing.

    ``ready_at``: it said that it is; ``joined_at``: a node was back; ``leased_at``: a band was
    handed out.
    """

    killed_at: float
    ready_at: float | None = None
    joined_at: float | None = None
    leased_at: float | None = None


@dataclass(slots=True)
class HeadKills:
    """All kills of the head; hears its log, on the thread of that daemon's lines."""

    kills: list[HeadKill] = field(default_factory=list)

    def hear(self, at: float, line: str) -> None:
        """Take a line of the head's log."""
        if not self.kills:
            return
        kill = self.kills[-1]
        if kill.joined_at is None and ": node " in line and " joined from " in line:
            kill.joined_at = at
        elif kill.leased_at is None and " goes to " in line and ": rows " in line:
            kill.leased_at = at

    def seconds(self, name: str) -> list[float]:
        """Give the seconds from each kill to ``name``, where that came before the next kill."""
        times = ((getattr(kill, name), kill.killed_at) for kill in self.kills)
        return sorted(at - killed_at for at, killed_at in times if at is not None)


@dataclass(slots=True)
class Injector:
    """Faults on ``farm`` while ``queue`` renders; nodes and submitters hang on ``cables``."""

    farm: StandingFarm
    cables: Mapping[str, Cable]
    queue: RenderQueue
    head_kills: HeadKills
    tell: Callable[[str], None]
    made: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    """Faults that found nothing to befall: no POV-Ray ran there, no job was open."""
    wrong: list[str] = field(default_factory=list)
    schedule: list[str] = field(default_factory=list)
    _mends: list[tuple[float, int, Mend]] = field(default_factory=list)
    _began_at: float = 0.0
    _clock: threading.Event = field(default_factory=threading.Event)

    def run(self, faults: Iterator[Fault], is_enough: Callable[[int, float], bool]) -> None:
        """Bring faults about until ``is_enough`` of their number and of the next one's time.

        Then what is still to be mended is mended at its time.
        """
        self._began_at = time.monotonic()
        for fault in faults:
            if is_enough(self.made.total(), fault.at_s) or self.queue.has_stopped:
                break
            self._mend_until(fault.at_s)
            self._wait_until(fault.at_s)
            self._bring_about(fault)
        self._mend_until(float("inf"))

    def release(self) -> None:
        """Let everything go on at once that was stopped or cut; what was killed stays so."""
        for cable in self.cables.values():
            cable.mend()
        for node in self.farm.nodes.values():
            if node.is_running:
                _signal_all(_tree(node.pid), signal.SIGCONT)

    def _mend_until(self, at_s: float) -> None:
        while self._mends and self._mends[0][0] <= at_s:
            due_s, _number, mend = heapq.heappop(self._mends)
            self._wait_until(due_s)
            mend()

    def _wait_until(self, at_s: float) -> None:
        self._clock.wait(max(0.0, self._began_at + at_s - time.monotonic()))

    def _bring_about(self, fault: Fault) -> None:
        mend = self._ways()[fault.kind](fault.target)
        note = "" if mend else " (nothing there)"
        self.schedule.append(f"{fault}{note}")
        self.tell(self.schedule[-1])
        if mend is None:
            self.missed[fault.kind] += 1
            return
        self.made[fault.kind] += 1
        heapq.heappush(self._mends, (fault.at_s + fault.lasts_s, fault.number, mend))

    def _ways(self) -> Mapping[str, Callable[[str], Mend | None]]:
        """Give what brings each kind of fault about; its answer mends it, None if it could not."""
        return {
            "node killed": self._kill_node,
            "node stopped": self._stop_node,
            "node drained": self._drain_node,
            "POV-Ray killed": self._kill_povray,
            "cable cut, briefly": self._cut,
            "cable cut, for long": self._cut,
            "cable torn": self._tear,
            "head killed": self._kill_head,
            "job paused": self._pause_job,
            "job cancelled": self._cancel_job,
        }

    # ------------------------------------------------------------ nodes

    def _kill_node(self, name: str) -> Mend:
        node = self.farm.nodes[name]
        povrays = povrays_below(node.pid)
        node.kill()
        _, alive = psutil.wait_procs(povrays, timeout=_GONE_S)
        if alive:
            self.wrong.append(f"{name} was killed and left POV-Ray behind: {alive}")
        return node.start

    def _stop_node(self, name: str) -> Mend:
        processes = _tree(self.farm.nodes[name].pid)
        _signal_all(processes, signal.SIGSTOP)
        return lambda: _signal_all(processes, signal.SIGCONT)

    def _drain_node(self, name: str) -> Mend:
        node = self.farm.nodes[name]
        node.signal(signal.SIGTERM)

        def start_again() -> None:
            code = node.wait(_DRAIN_S)
            if code != 0:
                self.wrong.append(f"{name} was drained and ended with {code}")
            if code is None:
                node.kill()
            node.start()

        return start_again

    def _kill_povray(self, name: str) -> Mend | None:
        give_up_at = time.monotonic() + _SEEN_WITHIN_S
        while time.monotonic() < give_up_at:
            for povray in povrays_below(self.farm.nodes[name].pid):
                _signal_all([povray], signal.SIGKILL)
                return _nothing
            self._clock.wait(_LOOK_S)
        return None

    # ------------------------------------------------------------ the network

    def _cut(self, name: str) -> Mend:
        self.cables[name].cut()
        return self.cables[name].mend

    def _tear(self, name: str) -> Mend:
        self.cables[name].tear()
        return self.cables[name].mend

    # ------------------------------------------------------------ the head

    def _kill_head(self, _target: str) -> Mend:
        killed_at = time.monotonic()
        self.farm.head.kill()
        # Only now: the last lines of the killed one have been heard.
        kill = HeadKill(killed_at)
        self.head_kills.kills.append(kill)
        self.farm.start_head()
        kill.ready_at = time.monotonic()
        return _nothing

    # ------------------------------------------------------------ jobs

    def _pause_job(self, _target: str) -> Mend | None:
        job = self._open_job(-1)
        if job is None or self.farm.control("pause", job).code:
            return None
        return lambda: self._resume(job)

    def _resume(self, job: str) -> None:
        resumed = self.farm.control("resume", job)
        # A job whose last bands were at work ends although it is paused.
        if resumed.code and self._state_of(job) == "paused":
            self.wrong.append(f"job {job} is not resumed: {resumed.stderr.decode().strip()}")

    def _cancel_job(self, _target: str) -> Mend | None:
        job = self._open_job(0)
        if job is None:
            return None
        self.queue.cancelled.add(job)
        if self.farm.control("cancel", job).code:
            self.queue.cancelled.discard(job)
            return None
        return _nothing

    def _open_job(self, index: int) -> str | None:
        """Give a job that runs: 0 is the youngest, -1 the oldest."""
        found = self.farm.control("jobs", "--json")
        jobs = json.loads(found.stdout) if found.code == 0 else []
        running = [job["id"] for job in jobs if job["state"] == "running"]
        return str(running[index]) if running else None

    def _state_of(self, job: str) -> str:
        return str(self.farm.ask("show", job)["job"]["state"])


def _nothing() -> None:
    """Mend what mends itself."""


def _tree(pid: int) -> list[psutil.Process]:
    try:
        daemon = psutil.Process(pid)
        return [daemon, *daemon.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal_all(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
