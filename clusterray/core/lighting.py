"""The farm's part that makes a frame's light before its picture, pass by pass.

A floor of ``farm``, whose rules for leases and attempts hold for the bands of a pass as for all. A
photon map is binary: once it is there, only the POV-Ray that shot it can go on with the frame, and
if nobody is left who has that one, the frame's light is made anew. Owned by the task-manager
thread. Pure.
"""

from __future__ import annotations

from dataclasses import fields, replace

from clusterray.core import actions as act
from clusterray.core import events as ev
from clusterray.core import probing
from clusterray.core.bands import equal_bands, render_area, row_step
from clusterray.core.entities import Band, Frame, Job
from clusterray.core.farm_base import FarmBase
from clusterray.core.model import Light, Rect
from clusterray.core.states import (
    BAND_TABLE,
    FRAME_TABLE,
    BandTrigger,
    FrameState,
    FrameTrigger,
    advance,
)


class Lighting(FarmBase):
    """Makes frames and their bands, and takes a frame from pass to pass to its picture."""

    def _add_frame(self, job: Job, index: int) -> None:
        frame = Frame(job, index, render_area(job.request.picture))
        job.frames.append(frame)
        self._begin_frame(frame)

    def _begin_frame(self, frame: Frame) -> None:
        """Let a frame that has no bands begin."""
        job = frame.job
        frame.passes = job.request.light
        if frame.passes:
            frame.state = FrameState.LIGHT
        else:
            probing.begin(frame)
        self._add_bands(frame)
        self._out.append(act.BeginFrame(job.id, frame.index, job.request, frame.run))

    def _begin_frame_anew(self, frame: Frame) -> None:
        """Forget what there is of a frame that has no live attempt, and let it begin again."""
        self._forget_bands(frame.all_bands)
        blank = Frame(frame.job, frame.index, frame.area, run=frame.run + 1)
        for each in fields(Frame):
            setattr(frame, each.name, getattr(blank, each.name))
        self._begin_frame(frame)

    def _add_bands(self, frame: Frame) -> None:
        """Partition the whole area into bands of the frame's stage."""
        request = frame.job.request
        frame.uncovered = frame.area.area
        # Photons are shot for the whole scene, whatever the rectangle, so by one node.
        count = 1 if frame.stage == "photons" else request.wish_bands or 1
        for rect in equal_bands(frame.area, row_step(request.picture), count):
            self._add_band(frame, rect)

    def _add_band(self, frame: Frame, rect: Rect) -> Band:
        band = self._make_band(frame, rect, frame.stage)
        frame.bands[band.id] = band
        return band

    def _pass_covered(self, frame: Frame) -> None:
        frame.state = advance(FRAME_TABLE, frame.state, FrameTrigger.COVERED)
        self._join(frame)

    def _join(self, frame: Frame) -> None:
        """Have what the covered bands of a pass left made into its light."""
        bands = sorted(frame.bands.values(), key=lambda band: (band.rect.y0, band.rect.x0))
        attempts = tuple(band.accepted.id for band in bands if band.accepted is not None)
        kind = frame.passes[0]
        self._out.append(act.JoinLight(frame.job.id, frame.index, kind, attempts))

    def _light_joined(self, event: ev.LightJoined) -> None:
        """Let the next pass or the picture begin, with what this pass found.

        It may be another class's than the pass was, as far as it can read the light.
        """
        frame = self._running(event)
        if frame is None or frame.state is not FrameState.JOINING:
            return
        last = len(frame.passes) == 1
        trigger = FrameTrigger.JOINED if last else FrameTrigger.NEXT
        frame.state = advance(FRAME_TABLE, frame.state, trigger)
        frame.passes = frame.passes[1:]
        if event.light is not None:
            frame.lights += (_with_readers(event.light, frame),)
        if last:
            probing.begin(frame)
            # How fast its pixels come is counted from the next lease on.
            frame.job.started_at = None
        self._put_aside(frame)
        self._add_bands(frame)
        self._changed(frame.job)

    def _relight(self, frame: Frame) -> None:
        """Make a frame's light anew: its picture has no tile, and nobody could render one."""
        frame.state = advance(FRAME_TABLE, frame.state, FrameTrigger.RELIT)
        for band in frame.bands.values():
            band.state = advance(BAND_TABLE, band.state, BandTrigger.RELIT)
            self._tell(band, f"{band.id} void: no node is left that can read its frame's light")
        frame.waiting.clear()
        frame.passes, frame.lights = frame.job.request.light, ()
        self._put_aside(frame)
        self._add_bands(frame)
        self._changed(frame.job)

    def _put_aside(self, frame: Frame) -> None:
        """Keep the bands of a stage that is over, for their stories, and begin anew."""
        for band in frame.bands.values():
            self._note_band(band)
        frame.light_bands |= frame.bands
        frame.bands, frame.povray_class = {}, None
        frame.work_done = frame.speed_s = 0.0


def _with_readers(light: Light, frame: Frame) -> Light:
    """Say who can read what the frame's bands have found."""
    if light.kind != "photons":
        return light
    # One band alone made the map.
    (attempt,) = (band.accepted for band in frame.bands.values() if band.accepted is not None)
    return replace(light, readers=attempt.povray_class.program)
