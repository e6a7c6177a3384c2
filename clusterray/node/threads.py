"""The threads of a node that work: those that render, the one that uploads, and those beside them.

Knows nothing of what they do; what they work on goes through node.holdings.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from clusterray.node.beside import Beside
from clusterray.node.canary import PovrayWatch
from clusterray.node.failures import failed
from clusterray.node.fitness import Fitness
from clusterray.node.holdings import Holdings
from clusterray.node.light_cache import LightCache
from clusterray.node.lookout import Lookout
from clusterray.node.probe import Prober
from clusterray.node.renderer import RenderFailed
from clusterray.node.salvage import Salvage
from clusterray.node.sandbox import Sandbox
from clusterray.node.scene_cache import SceneCache
from clusterray.node.scout import Scouter
from clusterray.node.upload_loop import UploadLoop
from clusterray.node.worker import RenderLoop

log = logging.getLogger(__name__)

JOIN_S = 5.0
"""How long ``stop`` waits for each thread."""


class Threads:
    """Starts and ends them; there is a "render-2" only if bands ``overlap``."""

    def __init__(
        self,
        *,
        povray: str,
        sandbox: Sandbox,
        threads: int,
        cache: SceneCache,
        light: LightCache,
        salvage: Salvage,
        holdings: Holdings,
        watch: PovrayWatch,
        fitness: Fitness,
        probes: Path,
        scouts: Path,
        overlap: bool,
    ) -> None:
        self._holdings = holdings
        prober = Prober(povray, sandbox, probes, holdings.tell_in_time)
        scouter = Scouter(povray, sandbox, scouts, holdings.tell_in_time, self._scene_fault)
        self._beside: tuple[Beside, ...] = (prober, scouter)
        holdings.when_unwanted(self._drop)
        lookout = Lookout(holdings, fitness, threads, overlap=overlap)
        renders = [
            RenderLoop(
                povray,
                sandbox,
                threads,
                cache,
                light,
                salvage,
                holdings,
                watch,
                fitness,
                prober,
                scouter,
                lookout,
            )
            for _ in range(2 if overlap else 1)
        ]
        self._render = renders[0]
        self._loops = (
            *((f"render-{number}", loop.run) for number, loop in enumerate(renders, 1)),
            ("upload", UploadLoop(holdings).run),
            ("probe", prober.run),
            ("scout", scouter.run),
        )
        self._threads: list[threading.Thread] = []

    def look(self) -> None:
        """Find out before the start whether this node can work, so that the first HELLO says it."""
        self._render.look()

    def start(self) -> None:
        """Start the threads. POV-Ray dies with the one that started it: they live to the end."""
        for name, run in self._loops:
            thread = threading.Thread(target=self._live, args=(run,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Break off what is at work, forget every attempt and end the threads."""
        self._holdings.stop()
        for beside in self._beside:
            beside.stop()
        for thread in self._threads:
            thread.join(JOIN_S)
            if thread.is_alive():
                log.warning("the thread %s did not end in %.0f s", thread.name, JOIN_S)

    def _drop(self, attempt: str) -> None:
        for beside in self._beside:
            beside.drop(attempt)

    def _scene_fault(self, attempt: str, failure: RenderFailed) -> bool:
        return self._holdings.fail_early(attempt, lambda held: failed(held, failure))

    def _live(self, run: Callable[[], None]) -> None:
        try:
            run()
        finally:
            self._holdings.thread_ended()
