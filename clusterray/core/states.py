"""The states of jobs, frames, bands, attempts and probes, as tables.

Two rules. (1) A state changes only through ``advance`` with a trigger of its table; a pair that
the table lacks is an ``IllegalTransition`` and nothing has changed. (2) A state with no way out is
final. ARCHITECTURE.md shows the same tables; a test compares them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class JobState(StrEnum):
    """Where a job is; QUEUED is one of which nothing was leased since it came into the queue."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    STITCHING = "stitching"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class FrameState(StrEnum):
    """What a frame's bands make; see invariant 11. One that needs no light begins as FINAL."""

    LIGHT = "light"
    JOINING = "joining"
    FINAL = "final"


class BandState(StrEnum):
    """Where a band is; see invariant 1 of the farm. Only verify bands are COMPARED."""

    WAITING = "waiting"
    RUNNING = "running"
    COVERED = "covered"
    COMPARED = "compared"
    VOID = "void"


class AttemptState(StrEnum):
    """Where an attempt is. RENDERING holds its node's place, UPLOADING has freed it."""

    RENDERING = "rendering"
    UPLOADING = "uploading"
    ACCEPTED = "accepted"
    FAILED = "failed"
    HANDED_BACK = "handed-back"
    LOST = "lost"
    DROPPED = "dropped"


class ProbeState(StrEnum):
    """How far the farm is with finding out whether a frame depends on threads; see invariant 12."""

    DUE = "due"
    ASKED = "asked"
    TOLD = "told"
    GIVEN_UP = "given up"


class JobTrigger(StrEnum):
    """What moves a job."""

    LEASED = "a band leased"
    COVERED = "every band covered"
    PAUSE = "paused"
    QUEUE = "resumed or requeued"
    STITCHED = "picture written"
    UNVERIFIED = "picture written, bands left to verify"
    VERIFIED = "no band left to verify"
    GONE = "a file of it is gone from the disk"
    FAIL = "failed"
    CANCEL = "cancelled"


class FrameTrigger(StrEnum):
    """What moves a frame."""

    COVERED = "every band of a light pass covered"
    NEXT = "light joined, another pass follows"
    JOINED = "light joined, the last pass"
    RELIT = "nobody is left who can read its light"
    GONE = "what a band of the pass found is gone from the disk"


class BandTrigger(StrEnum):
    """What moves a band."""

    LEASE = "leased to a node"
    RETURN = "no live attempt left"
    ACCEPT = "tile accepted"
    COMPARE = "compared with the first tile"
    GIVE_UP = "verification given up"
    RELIT = "its frame's light is made anew"
    JOB_ENDED = "job failed or cancelled"
    DISCARD = "its tile was deleted with the job's files"
    GONE = "its tile is gone from the disk"
    REQUEUE = "job requeued"


class AttemptTrigger(StrEnum):
    """What moves an attempt."""

    RENDERED = "rendered, upload announced"
    RERENDER = "node came back without the finished tile"
    ACCEPT = "tile verified and accepted"
    FAIL = "failed on its node, or its tile was refused"
    HAND_BACK = "handed back by its node"
    LOSE = "its node is gone or forgot it"
    DROP = "counts no more"


class ProbeTrigger(StrEnum):
    """What moves a probe."""

    ASK = "asked with a lease"
    FAIL = "not to be had there"
    GIVE_UP = "not to be had a third time"
    TELL = "told by a node"


JOB_TABLE: Mapping[JobState, Mapping[JobTrigger, JobState]] = {
    JobState.QUEUED: {
        JobTrigger.LEASED: JobState.RUNNING,
        JobTrigger.COVERED: JobState.STITCHING,
        JobTrigger.PAUSE: JobState.PAUSED,
        JobTrigger.FAIL: JobState.FAILED,
        JobTrigger.CANCEL: JobState.CANCELLED,
    },
    JobState.RUNNING: {
        JobTrigger.COVERED: JobState.STITCHING,
        JobTrigger.PAUSE: JobState.PAUSED,
        JobTrigger.FAIL: JobState.FAILED,
        JobTrigger.CANCEL: JobState.CANCELLED,
    },
    JobState.PAUSED: {
        JobTrigger.QUEUE: JobState.QUEUED,
        JobTrigger.COVERED: JobState.STITCHING,
        JobTrigger.FAIL: JobState.FAILED,
        JobTrigger.CANCEL: JobState.CANCELLED,
    },
    JobState.STITCHING: {
        JobTrigger.STITCHED: JobState.DONE,
        JobTrigger.UNVERIFIED: JobState.VERIFYING,
        JobTrigger.GONE: JobState.QUEUED,
        JobTrigger.FAIL: JobState.FAILED,
        JobTrigger.CANCEL: JobState.CANCELLED,
    },
    JobState.VERIFYING: {
        JobTrigger.VERIFIED: JobState.DONE,
        JobTrigger.GONE: JobState.QUEUED,
        JobTrigger.FAIL: JobState.FAILED,
        JobTrigger.CANCEL: JobState.CANCELLED,
    },
    JobState.DONE: {JobTrigger.QUEUE: JobState.QUEUED},
    JobState.FAILED: {JobTrigger.QUEUE: JobState.QUEUED},
    JobState.CANCELLED: {JobTrigger.QUEUE: JobState.QUEUED},
}

FRAME_TABLE: Mapping[FrameState, Mapping[FrameTrigger, FrameState]] = {
    FrameState.LIGHT: {
        FrameTrigger.COVERED: FrameState.JOINING,
        FrameTrigger.RELIT: FrameState.LIGHT,
    },
    FrameState.JOINING: {
        FrameTrigger.NEXT: FrameState.LIGHT,
        FrameTrigger.JOINED: FrameState.FINAL,
        FrameTrigger.GONE: FrameState.LIGHT,
    },
    FrameState.FINAL: {FrameTrigger.RELIT: FrameState.LIGHT},
}

BAND_TABLE: Mapping[BandState, Mapping[BandTrigger, BandState]] = {
    BandState.WAITING: {
        BandTrigger.LEASE: BandState.RUNNING,
        BandTrigger.GIVE_UP: BandState.VOID,
        BandTrigger.RELIT: BandState.VOID,
        BandTrigger.JOB_ENDED: BandState.VOID,
    },
    BandState.RUNNING: {
        BandTrigger.RETURN: BandState.WAITING,
        BandTrigger.ACCEPT: BandState.COVERED,
        BandTrigger.JOB_ENDED: BandState.VOID,
    },
    BandState.COVERED: {
        BandTrigger.COMPARE: BandState.COMPARED,
        BandTrigger.GIVE_UP: BandState.VOID,
        BandTrigger.RELIT: BandState.VOID,
        BandTrigger.JOB_ENDED: BandState.VOID,
        BandTrigger.DISCARD: BandState.VOID,
        BandTrigger.GONE: BandState.WAITING,
    },
    BandState.COMPARED: {BandTrigger.JOB_ENDED: BandState.VOID},
    BandState.VOID: {BandTrigger.REQUEUE: BandState.WAITING},
}

ATTEMPT_TABLE: Mapping[AttemptState, Mapping[AttemptTrigger, AttemptState]] = {
    AttemptState.RENDERING: {
        AttemptTrigger.RENDERED: AttemptState.UPLOADING,
        AttemptTrigger.FAIL: AttemptState.FAILED,
        AttemptTrigger.HAND_BACK: AttemptState.HANDED_BACK,
        AttemptTrigger.LOSE: AttemptState.LOST,
        AttemptTrigger.DROP: AttemptState.DROPPED,
    },
    AttemptState.UPLOADING: {
        AttemptTrigger.RERENDER: AttemptState.RENDERING,
        AttemptTrigger.ACCEPT: AttemptState.ACCEPTED,
        AttemptTrigger.FAIL: AttemptState.FAILED,
        AttemptTrigger.HAND_BACK: AttemptState.HANDED_BACK,
        AttemptTrigger.LOSE: AttemptState.LOST,
        AttemptTrigger.DROP: AttemptState.DROPPED,
    },
    AttemptState.ACCEPTED: {},
    AttemptState.FAILED: {},
    AttemptState.HANDED_BACK: {},
    AttemptState.LOST: {},
    AttemptState.DROPPED: {},
}

PROBE_TABLE: Mapping[ProbeState, Mapping[ProbeTrigger, ProbeState]] = {
    ProbeState.DUE: {
        ProbeTrigger.ASK: ProbeState.ASKED,
        # By one that was asked before and thought lost.
        ProbeTrigger.TELL: ProbeState.TOLD,
    },
    ProbeState.ASKED: {
        ProbeTrigger.TELL: ProbeState.TOLD,
        ProbeTrigger.FAIL: ProbeState.DUE,
        ProbeTrigger.GIVE_UP: ProbeState.GIVEN_UP,
    },
    ProbeState.GIVEN_UP: {ProbeTrigger.TELL: ProbeState.TOLD},
    ProbeState.TOLD: {},
}

LIVE_ATTEMPT = frozenset(state for state, ways in ATTEMPT_TABLE.items() if ways)
OPEN_BAND = frozenset({BandState.WAITING, BandState.RUNNING, BandState.COVERED})
"""The states of a verify band that is not yet compared or given up."""
OPEN_JOB = frozenset(
    {
        JobState.QUEUED,
        JobState.RUNNING,
        JobState.PAUSED,
        JobState.STITCHING,
        JobState.VERIFYING,
    }
)
"""The states of a job that has not ended: out of the others only people lead."""

S = TypeVar("S", bound=StrEnum)
T = TypeVar("T", bound=StrEnum)


class IllegalTransition(Exception):
    """The table has no such way; the state is unchanged."""


def advance(table: Mapping[S, Mapping[T, S]], state: S, trigger: T) -> S:
    """Give the state that ``trigger`` leads to; raises IllegalTransition if there is none."""
    target = table[state].get(trigger)
    if target is None:
        raise IllegalTransition(f"{type(state).__name__} {state} has no way out by {trigger!r}")
    return target
