"""Measures what docs/fidelity.md says of the probe: what it sees, and what it costs the band.

    python -m tests.system.probe_figures sees     # every example of Debian's: an hour
    python -m tests.system.probe_figures costs    # one node with two threads: half an hour

Responsible for figures only; what must hold is in the tests.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from clusterray.povray.chance import find_chance
from clusterray.povray.needs import find_needs
from clusterray.povray.probe import RUNS
from clusterray.wire.protocol import Accepted, Done, Probed, Uploading
from tests.node.doubles import POVRAY, SLOW, Conversation, HeadDouble, make_scene
from tests.node.doubles import Scene as SceneFolder
from tests.system.harness import NO_CONFIG, Process

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "lib"))

from compare_pictures import compare
from corpus import Scene, find_scenes

WITHIN_S = 60.0
LARGE, SMALL = ("+W200", "+H150"), ("+W80", "+H60", "+BS8")
OTHERS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "truth": [(*LARGE, "+WT1", "+RP3", "+RS5"), (*LARGE, "+WT2")],
    "probe": [(*SMALL, f"+WT{RUNS[1].threads}", *RUNS[1].words)],
    "threads": [(*SMALL, "+WT2")],
}
"""What is held against one thread and the usual order, of the large picture or of the small one."""
LIGHT = frozenset({"radiosity", "photons"})
ROUNDS = 5
HEAVY = """
#declare N = 0;
#while (N < %d) #declare A = sin(N) * cos(N); #declare N = N + 1; #end
"""
"""Takes long to parse, and nothing to render."""
SCENES = {
    "parses at once": SLOW,
    "parses for 0.3 s": SLOW + HEAVY % 200_000,
    "parses for 2 s": SLOW + HEAVY % 1_500_000,
}
SIDE = 640


def main(words: Sequence[str]) -> int:
    """Measure what is named."""
    if list(words) == ["sees"]:
        return sees()
    if list(words) == ["costs"]:
        return costs()
    say(__doc__ or "")
    return 2


def say(line: str) -> None:
    """Print a line at once: all of it takes long."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# ---------------------------------------------------------------- what it sees


def sees() -> int:
    """Print how often text and probe agree with two renders of a larger picture."""
    count: Counter[tuple[bool, ...]] = Counter()
    for scene in find_scenes():
        told = _told_of(scene)
        if told is None:
            say(f"{scene.name}: not measured")
            continue
        count[told] += 1
        truth, probe, threads, text = told
        if truth != probe or truth != threads or truth != text:
            say(f"{scene.name}: differs {truth}, {probe=}, {threads=}, {text=}")
    for (truth, probe, threads, text), number in sorted(count.items()):
        say(f"{number} scenes: differs {truth}, {probe=}, {threads=}, {text=}")
    return 0


def _told_of(scene: Scene) -> tuple[bool, ...] | None:
    """Tell whether larger pictures differ, a probe, one by threads alone, and if the text warns.

    None for a scene that uses light, or that does not render in time.
    """
    with tempfile.TemporaryDirectory(prefix="probe-figures-") as folder:
        place = Path(folder)
        differs = {}
        for what, others in OTHERS.items():
            size = LARGE if what == "truth" else SMALL
            first, *rest = [_render(scene, words, place) for words in [(*size, "+WT1"), *others]]
            if first is None or None in rest:
                return None
            differs[what] = any(compare(first, other).pixels for other in rest if other)
    main_file = scene.folder / Path(scene.name).name
    texts = find_needs(main_file, start=scene.folder).texts
    named = {each.feature for each in find_chance((text.name, text) for text in texts)}
    return differs["truth"], differs["probe"], differs["threads"], bool(named - LIGHT)


def _render(scene: Scene, words: Sequence[str], place: Path) -> Path | None:
    picture = place / f"{len(list(place.iterdir()))}.png"
    folder = scene.stage(place / f"{picture.stem}-scene")
    entry = scene.entry if scene.entry.endswith(".ini") else f"+I{scene.entry}"
    argv = [POVRAY, "-D", "-P", entry, *scene.options, "-A", *words, "+FN8", f"+O{picture}"]
    try:
        if scene.made_first:
            made = [POVRAY, "-D", *scene.made_first]
            subprocess.run(made, cwd=folder, capture_output=True, check=False)
        done = subprocess.run(argv, cwd=folder, capture_output=True, timeout=WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        return None
    said = done.stderr
    light = b"Radiosity samples calculated" in said or b"No photons" not in said
    return None if done.returncode or light else picture


# ---------------------------------------------------------------- what it costs


@dataclass(frozen=True)
class Cost:
    """What one band took: seconds until its tile was there, CPU seconds of all POV-Rays."""

    wall_s: float
    cpu_s: float


def costs() -> int:
    """Print how much longer a band takes with a probe beside it, and how much more work that is."""
    for name, text in SCENES.items():
        with tempfile.TemporaryDirectory(prefix="probe-figures-") as folder:
            pairs = list(_pairs(Path(folder), text))
        for what in ("wall_s", "cpu_s"):
            without = statistics.median(getattr(pair[0], what) for pair in pairs)
            ratios = sorted(getattr(pair[1], what) / getattr(pair[0], what) for pair in pairs)
            say(
                f"{name}: {what} {without:.1f} without a probe; with one "
                f"{statistics.median(ratios):.3f} times that "
                f"({ratios[0]:.3f} to {ratios[-1]:.3f} in {len(ratios)} pairs)"
            )
    return 0


def _pairs(folder: Path, text: str) -> Iterator[tuple[Cost, Cost]]:
    """Give the cost of one band without and with a probe, again and again."""
    scene = make_scene(folder, text, width=SIDE, height=SIDE)
    head = HeadDouble(folder / "head")
    argv = [*NO_CONFIG, "--join", head.token, "--threads", "2", "--work", str(folder / "work")]
    node = Process("clusterray.cli.node", argv)
    try:
        talk = head.meet()
        for _ in range(ROUNDS):
            yield (
                _cost(head, talk, node, scene, probe=False),
                _cost(head, talk, node, scene, probe=True),
            )
    finally:
        node.stop()
        head.close()


def _cost(
    head: HeadDouble, talk: Conversation, node: Process, scene: SceneFolder, *, probe: bool
) -> Cost:
    lease = msgspec.structs.replace(head.lease(scene, (0, 0, SIDE, SIDE)), probe=probe)
    spent_before_s = _children_s(node)
    began_at, wall_s = time.monotonic(), 0.0
    talk.send(lease)
    missing: set[type] = {Uploading, Done, Probed} if probe else {Uploading, Done}
    while missing:
        message = talk.link.receive(1.0)
        missing.discard(type(message))
        if isinstance(message, Uploading):
            wall_s = time.monotonic() - began_at
        elif isinstance(message, Done):
            talk.send(Accepted(message.attempt))
        elif isinstance(message, Probed):
            say(f"  after {time.monotonic() - began_at:.1f} s: {message.found or message.reason}")
    cost = Cost(wall_s, _children_s(node) - spent_before_s)
    say(f"  probe {probe}: {cost}")
    return cost


def _children_s(node: Process) -> float:
    """Give the CPU seconds of the programs that have ended below a daemon."""
    times = psutil.Process(node.popen.pid).cpu_times()
    return float(times.children_user + times.children_system)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
