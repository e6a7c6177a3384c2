"""The farm's part that lets nodes without work help with bands that are being rendered.

A floor of ``farm``. A node with nothing to do gets the lower part of the band that would end last:
the band's owner is asked to keep the upper one, and says what it keeps; what it says is done, so
that no pixel is ever two nodes'. Until it has answered nothing has changed. Where a cut helps no
more, or its owner does not answer or has become slow, the node renders the band too: the first tile
is taken, the other attempt dropped. What learns how fast nodes get on is here as well. Owned by the
task-manager thread. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core.bands import may_cut, rest_of, row_step
from clusterray.core.blocks import BlockGrid
from clusterray.core.cutting import (
    TOO_SLOW,
    Helper,
    best_cut,
    helper,
    seconds_left,
)
from clusterray.core.entities import Ask, Attempt, Band, Frame, Node
from clusterray.core.lighting import Lighting
from clusterray.core.model import AttemptId, Rect
from clusterray.core.pace import LEAST_LESSON_S, learned, work_of_first
from clusterray.core.pieces import piece_left
from clusterray.core.policy import may_render, may_still_take
from clusterray.core.states import AttemptState, AttemptTrigger

ANSWER_S = 3.0
"""How long a node may take to answer a cut before its band is rendered by another one too."""
WIDE = 6
"""A rest with more blocks in a row than so many for each thread of its taker is halved: a row would
be much of it, and what is begun cannot be cut (scripts/bench/balance: 8 nodes 0.84 instead of 0.71
of the ideal in the worst of 11 scenes)."""
WORTH_STARTS = 4.0
"""Unless such a row takes less than so many starts: each half is a POV-Ray of its own."""
SEEK_S = 0.25
"""Nodes for which nothing was found to help with look again after that."""
LOOKED_AT = 16
"""So many bands of each job, those that end last, are looked at for a node: at the end many of them
have begun all their blocks (scripts/bench/balance: with 4, 64 nodes 0.67 of the ideal instead of
0.70)."""
BANDS_LOOKED_AT = 64
"""And so many of all jobs."""
JOBS_LOOKED_AT = 64
NODES_LOOKED_FOR = 3
"""If nothing was found for so many nodes one after the other, nothing is for the others."""


class Helping(Lighting):
    """Cuts running bands, has them rendered twice at the end, and learns how fast nodes are."""

    def _lease(self, node: Node, band: Band) -> None:
        """Hand a band to a node; how is the farm's to say."""
        raise NotImplementedError

    def _live(self, conn: int, attempt_id: AttemptId, *, rendered: bool = False) -> Attempt | None:
        """Find a live attempt of the node that speaks; how is the farm's to say."""
        raise NotImplementedError

    def _fail_here(self, attempt: Attempt, reason: str) -> None:
        """Fail an attempt of which its node does not know that it failed."""
        raise NotImplementedError

    # ---------------------------------------------------------------- cuts

    def _cut(self, band: Band, keep: Rect) -> Band:
        """Cut a band: it keeps ``keep``, a new band that waits gets the rest.

        What failed with the whole may fail with a part, so the rest has its failures too.
        """
        rest = rest_of(band.rect, keep)
        assert rest is not None
        band.rect = keep
        self._tell(band, f"{band.id} cut: it keeps {_words(keep)}")
        other = self._add_band(band.frame, rest)
        other.failed_on, other.stalls = band.failed_on, band.stalls
        if band.failed_on:
            self._tell(other, f"{other.id} was part of {band.id}, which failed")
        return other

    def _attempt_cut(self, event: ev.AttemptCut) -> None:
        """Take the answer to a cut, whatever was asked: what the node says is what it does."""
        attempt = self._live(event.conn, event.attempt)
        if attempt is None or attempt.state is not AttemptState.RENDERING:
            return
        ask = self.asks.pop(attempt.id, None)
        if event.keep == attempt.band.rect:
            attempt.uncut = True
            self._seek_soon()
        elif self._may_be_cut(attempt, event.keep):
            attempt.band.frame.tile_parses = event.parses
            self._take_cut(attempt, event.keep, ask)
        else:
            self._fail_here(attempt, f"its node cut its band to {_words(event.keep)}")

    def _may_be_cut(self, attempt: Attempt, keep: Rect) -> bool:
        band = attempt.band
        step = row_step(band.frame.job.request.picture)
        return is_cuttable(band) and may_cut(band.rect, keep, step)

    def _take_cut(self, attempt: Attempt, keep: Rect, ask: Ask | None = None) -> None:
        band = attempt.band
        for other in band.live_attempts:
            if other is not attempt:
                self._end(other, AttemptTrigger.DROP, "the band was cut after all")
        attempt.done = min(attempt.done, keep.area)
        rest = self._cut(band, keep)
        if ask is not None and ask.wanted_by != attempt.node:
            self._narrow(rest, self.nodes[ask.wanted_by])
        self._changed(band.frame.job)
        self._believe(attempt)

    def _narrow(self, band: Band, node: Node) -> None:
        """Halve a rest that is wide for who takes it; the other half waits for another node."""
        step = row_step(band.frame.job.request.picture)
        rect = band.rect
        grid, frame = BlockGrid(rect, step), band.frame
        columns = grid.columns
        if grid.rows == 1 or columns <= WIDE * node.threads:
            return
        row_s = frame.work(rect) / grid.rows / (frame.rate * node.speed)
        if row_s < WORTH_STARTS * (frame.start_s + frame.file_s):
            return
        middle = rect.x0 + step * -(-columns // 2)
        self._cut(band, Rect(rect.x0, rect.y0, middle, rect.y1))

    # ---------------------------------------------------------------- who helps with what

    def _seek_soon(self) -> None:
        self.seek_at = self._now

    def _seek(self) -> None:
        """Let the nodes with a place, for which no band waits, help with those that run."""
        if self.seek_at is None or self.seek_at > self._now:
            return
        if not (self.hungry and self._some_run()):
            self.seek_at = None
            return
        awaiting = {ask.wanted_by for ask in self.asks.values() if self._is_fresh(ask)}
        idle = [node for node in self.hungry.values() if node.id not in awaiting]
        in_vain = 0
        for node in sorted(idle, key=lambda node: (bool(node.rendering), -node.speed)):
            in_vain = 0 if self._help(node) else in_vain + 1
            if in_vain == NODES_LOOKED_FOR:
                break
        self.seek_at = self._now + SEEK_S if self.hungry and self._some_run() else None

    def _some_run(self) -> bool:
        return any(job.ends for job in islice(self.open_jobs, JOBS_LOOKED_AT))

    def _is_fresh(self, ask: Ask) -> bool:
        return self._now - ask.at < ANSWER_S

    def _help(self, node: Node) -> bool:
        """Find something for a node to help with; tells whether there was."""
        last = islice(self._ending_last(node), BANDS_LOOKED_AT)
        return any(self._help_with(attempt, node) for attempt in last)

    def _ending_last(self, node: Node) -> Iterator[Attempt]:
        """Give of each job for ``node`` the attempts that end last, in the order of the queue."""
        for job in islice(self.open_jobs, JOBS_LOOKED_AT):
            if job.ends and job.takes_leases and not node.kept_off_job(job.id):
                for attempt_id in job.ends.latest(LOOKED_AT):
                    yield self.attempts[attempt_id]

    def _help_with(self, attempt: Attempt, node: Node) -> bool:
        band, owner = attempt.band, self.nodes[attempt.node]
        frame = band.frame
        tries = self.patience.band_tries
        alone = len(band.live_attempts) == 1 and owner.conn is not None and owner is not node
        if not (alone and frame.rate and may_render(node, frame)):
            return False
        if band.reluctance(node.id) or not may_still_take(node, band, tries):
            return False
        other, ask = helper(node, frame, self._now), self.asks.get(attempt.id)
        if ask is not None:
            return not self._is_fresh(ask) and self._double(attempt, node, other)
        if owner.cuts and not attempt.uncut and is_cuttable(band):
            cut = best_cut(attempt, owner, other, self._now)
            if cut is not None:
                self._ask(attempt, cut.keep, node)
                return True
        return self._double(attempt, node, other)

    def _ask(self, attempt: Attempt, keep: Rect, node: Node) -> None:
        conn = self.nodes[attempt.node].conn
        assert conn is not None
        self.asks[attempt.id] = Ask(keep, node.id, self._now)
        self._out.append(act.SendCut(conn, attempt.id, keep))

    def _double(self, attempt: Attempt, node: Node, other: Helper) -> bool:
        """Have a band rendered a second time, if that is much sooner done than the first."""
        band, owner = attempt.band, self.nodes[attempt.node]
        anew_s = other.ends_in_s(band.frame, band.rect)
        if seconds_left(attempt, owner, self._now) < TOO_SLOW * anew_s:
            return False
        self._tell(band, f"{attempt.id} is slow: {node.name} renders {band.id} too")
        self._lease(node, band)
        return True

    # ---------------------------------------------------------------- how fast they are

    def _believe(self, attempt: Attempt) -> None:
        """Note when an attempt at the picture is believed to end."""
        band, job = attempt.band, attempt.band.frame.job
        if band.stage != "final" or not band.frame.rate:
            return
        left_s = seconds_left(attempt, self.nodes[attempt.node], self._now)
        job.ends.put(attempt.id, self._now + left_s)
        if self.hungry and self.seek_at is None:
            self._seek_soon()

    def _pace(self, attempt: Attempt, done: int) -> None:
        """Learn from how far an attempt at the picture is: ``done`` pixels."""
        band = attempt.band
        frame, picture = band.frame, band.frame.job.request.picture
        if band.stage != "final":
            return
        work = work_of_first(frame.costs, band.rect, row_step(picture), done)
        more, seconds = attempt.pace.hear(work, self._now)
        frame.work_done += more
        frame.speed_s += seconds * self.nodes[attempt.node].speed
        self._believe(attempt)
        self._shorten(attempt)

    def _shorten(self, attempt: Attempt) -> None:
        """Have a node keep a piece of a band that lasts much longer; the rest waits for anybody."""
        owner = self.nodes[attempt.node]
        asked = attempt.id in self.asks or attempt.uncut
        if asked or not (owner.cuts and attempt.band.frame.rate and is_cuttable(attempt.band)):
            return
        keep = piece_left(attempt, owner, self._now)
        if keep is not None:
            self._ask(attempt, keep, owner)

    def _weigh_anew(self, frame: Frame) -> None:
        """Other costs are believed: count what is done of the frame by these."""
        step = row_step(frame.job.request.picture)
        before = after = 0.0
        for band in frame.bands.values():
            for attempt in band.live_attempts:
                pace = attempt.pace
                if band.stage != "final" or pace.at is None or not pace.done:
                    continue
                done = work_of_first(frame.costs, band.rect, step, attempt.done)
                ratio = done / pace.done
                before, after = before + pace.done, after + done
                pace.done, pace.begun, pace.work = done, pace.begun * ratio, pace.work * ratio
        if before and after:
            frame.work_done *= after / before
        for band in frame.bands.values():
            for attempt in band.live_attempts:
                if attempt.state is AttemptState.RENDERING:
                    self._believe(attempt)

    def _time_parse(self, attempt: Attempt) -> None:
        """Learn how long the scene takes to parse, as an attempt has parsed it."""
        frame, took_s = attempt.band.frame, self._now - attempt.phase_at
        frame.parse_s = took_s if frame.parse_s is None else (frame.parse_s + took_s) / 2

    def _learn_speed(self, attempt: Attempt) -> None:
        """Learn what a node's threads are worth from an attempt that it has rendered."""
        node, pace, rate = self.nodes[attempt.node], attempt.pace, attempt.band.frame.rate
        if pace.all_s < LEAST_LESSON_S or not rate:
            return
        believed = rate * node.speed * pace.all_s
        ratio = (pace.done - pace.begun) / believed
        if ratio > 0:
            node.thread_speed = learned(node.thread_speed, ratio, pace.all_s)
            self._note_node(node)


def is_cuttable(band: Band) -> bool:
    """Tell whether a band may be cut while it runs.

    Not one of a job whose owner wished for a number of bands.
    """
    return band.stage == "final" and band.frame.job.request.wish_bands is None


def _words(rect: Rect) -> str:
    return f"rows {rect.y0} to {rect.y1}, columns {rect.x0} to {rect.x1}"
