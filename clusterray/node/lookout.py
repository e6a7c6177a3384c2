"""Looks ahead for attempts that render: says when one ends soon, and gives the younger of two up.

Each render thread asks for the attempt it has, as its POV-Ray goes on. What was seen so far the
attempt's Outlook keeps; whether the node may take a further attempt at all, Holdings knows.
"""

from __future__ import annotations

import time

from clusterray.node.fitness import Fitness
from clusterray.node.held import Held
from clusterray.node.holdings import Holdings
from clusterray.node.machine import memory_bytes, memory_left
from clusterray.node.overlap import has_room, is_scarce, until_first_idle
from clusterray.node.renderer import Render
from clusterray.povray.state_file import finished_pixels

OUT_OF_MEMORY = "the node's memory ran short with two bands at work"


class Lookout:
    """Looks ahead for POV-Rays of so many ``threads``.

    ``overlap`` False: this node renders one band after the other.
    """

    def __init__(
        self, holdings: Holdings, fitness: Fitness, threads: int, *, overlap: bool
    ) -> None:
        self._holdings = holdings
        self._fitness = fitness
        self._threads = threads
        self._overlap = overlap

    def look(self, held: Held, render: Render) -> None:
        """See how the POV-Ray of an attempt gets on, whose progress has just been told."""
        if not self._overlap:
            return
        if self._holdings.is_younger(held) and is_scarce(memory_left(), memory_bytes()):
            self._holdings.hand_back_younger(held, OUT_OF_MEMORY)
            return
        if held.lease.stage != "final" or held.place or not render.has_parsed:
            render.keen = False
            return
        now, outlook, block = time.monotonic(), held.outlook, held.spec.block_size
        wanted = until_first_idle(held.rect.area, block, self._threads)
        if not outlook.is_due(now):
            return
        outlook.note(now, finished_pixels(held.folder.blocks, block))
        outlook.largest_bytes = max(outlook.largest_bytes, render.largest_bytes())
        render.keen = outlook.is_keen(now, wanted)
        if outlook.ends_soon(now, wanted):
            self._give_place(held)

    def all_done(self, held: Held) -> None:
        """All pixels of an attempt are there; its tile is still to be made."""
        if self._overlap and held.lease.stage == "final":
            self._give_place(held)

    def _give_place(self, held: Held) -> None:
        largest = held.outlook.largest_bytes
        if self._fitness.fit and has_room(largest, memory_left(), memory_bytes()):
            self._holdings.give_place(held)
