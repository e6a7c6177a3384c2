"""The messages of the control connection and their codec; sans-IO.

A frame is a 4-byte big-endian length and that many bytes of UTF-8 JSON, an object with ``type``.
What carries a secret leaves it out of its ``repr()``, so that no log or traceback can show it.
Every field has a size limit; unknown keys are ignored, unknown types and bad values are refused
with ``ProtocolError``. Knows nothing of sockets, threads or time. docs/protocol.md holds the table
of who sends what, and what each answer asks of its receiver; a test compares the two.

Versions: ``PROTOCOL_MIN`` .. ``PROTOCOL_MAX`` is the range this build speaks. Raise MAX when a
message or field is added that the other side must know to work right; raise MIN only when old
peers can no longer be served.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta

from clusterray.core.costs import MAX_CELLS
from clusterray.core.fidelity import FidelityKind
from clusterray.core.model import MAX_BANDS, LightKind, Mix

PROTOCOL_MIN = 1
PROTOCOL_MAX = 2
CUT_SINCE = 2
"""The protocol that brought CUT: a peer of an older one is not asked."""
SCOUT_SINCE = 2
"""The protocol that brought SCOUTED: of a node of an older one no answer is expected."""

MAX_FRAME_BYTES = 1 << 20
"""Largest frame either side accepts; a manifest travels in parts that stay below it."""
MAX_HELLO_BYTES = 1 << 18
"""Largest frame accepted from a peer that has not yet shown its secret."""
MAX_SCOUT_BYTES = 1 << 18
"""Largest picture of a scout."""
MAX_BLOCKS_BYTES = 48_000
"""Largest picture of finished blocks: with base64 around it the message stays below 64 KiB."""
MANIFEST_PART_BYTES = 1 << 18
"""A sender closes a manifest part before its entries' encoded size passes this."""

_LENGTH = struct.Struct(">I")

Ident: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+\Z")]
Sha256: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Name: TypeAlias = Annotated[str, Meta(max_length=255)]
Text: TypeAlias = Annotated[str, Meta(max_length=8192)]
LongText: TypeAlias = Annotated[str, Meta(max_length=65536)]
RelPath: TypeAlias = Annotated[str, Meta(min_length=1, max_length=4096)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
RequestId: TypeAlias = Annotated[int, Meta(ge=0, le=2**31)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]
Columns: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_CELLS)]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
Pixel: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]
ExitCode: TypeAlias = Annotated[int, Meta(ge=0, le=255)]
RectTuple: TypeAlias = tuple[Pixel, Pixel, Pixel, Pixel]
Priority: TypeAlias = Annotated[int, Meta(ge=-100, le=100)]
Role: TypeAlias = Literal["node", "submit", "admin"]
Phase: TypeAlias = Literal["waiting", "fetching", "parsing", "rendering", "uploading"]
LeaseStage: TypeAlias = Literal["photons", "light", "final"]
BandStage: TypeAlias = Literal["photons", "light", "final", "verify"]
Verify: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_BANDS)] | Literal["all"]


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value inside a message."""


class Message(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    """A whole message; its ``type`` is the class's tag."""


# ---------------------------------------------------------------- values inside messages


class Grant(Part, frozen=True):
    """An FTP login for one purpose: one file, to read or to write, and nothing else.

    ``path`` is the only name that the session can RETR or STOR.
    """

    user: Ident
    password: Ident
    path: RelPath

    def __repr__(self) -> str:
        return f"Grant(user={self.user!r}, path={self.path!r})"


class SceneRef(Part, frozen=True):
    """A scene to fetch: its id (hash of the manifest), the sizes of its tar and manifest in bytes.

    ``manifest_bytes`` 0: the head offers the whole tar alone.
    """

    id: Sha256
    tar_bytes: Count
    manifest_bytes: Count = 0


class LightRef(Part, frozen=True):
    """Shared light of a frame: what it is, hash and size of its file, the login that reads it."""

    kind: LightKind
    sha256: Sha256
    size: Count
    read: Grant


class Entry(Part, frozen=True):
    """One file of a manifest: POSIX relative path, mode bits, size in bytes, content hash."""

    path: RelPath
    mode: Annotated[int, Meta(ge=0, le=0o777)]
    size: Count
    sha256: Sha256


class Chance(Part, frozen=True):
    """What a scene's text has that its fidelity depends on, and where; docs/fidelity.md."""

    feature: Name
    file: Annotated[str, Meta(max_length=4096)]
    line: Count


class ProbeView(Part, frozen=True):
    """What a probe found: how many of its pixels differ, and by how much of ``levels`` at most."""

    pixels: Count
    differing: Count
    largest: Count = 0
    levels: Count = 255


class NodeInfo(Part, frozen=True):
    """What a node can do, and the attempts it still holds from an earlier connection.

    ``canary`` are the pixels of the small picture that the node rendered as it started, 64x48 RGB,
    ``canary_sha256`` their hash, ``includes_sha256`` that of POV-Ray's include files and fonts.
    ``unfit`` is why it cannot take bands now, "" if it can. ``kept`` is what it agreed to keep of
    bands that were cut, by the attempt. ``canary_cpu_s`` is what the canary took one thread, 0 if
    nobody knows.
    """

    cores: Annotated[int, Meta(ge=1, le=4096)]
    threads: Annotated[int, Meta(ge=1, le=4096)]
    memory_bytes: Count
    povray_version: Name
    povray_build: Name
    rendering: Annotated[list[Ident], Meta(max_length=256)] = []
    rendered: Annotated[list[Ident], Meta(max_length=256)] = []
    canary_sha256: Sha256 | None = None
    includes_sha256: Sha256 | None = None
    canary: Annotated[bytes, Meta(max_length=9216)] = b""
    unfit: Text = ""
    kept: Annotated[dict[Ident, RectTuple], Meta(max_length=256)] = {}
    canary_cpu_s: Seconds = 0.0


class PhaseSeconds(Part, frozen=True):
    """Where an attempt's time went on its node, wall seconds of each phase."""

    fetch: Seconds = 0.0
    parse: Seconds = 0.0
    render: Seconds = 0.0
    crop: Seconds = 0.0
    upload: Seconds = 0.0


class VerifiedView(Part, frozen=True):
    """What came of rendering bands of a job again; ``lines`` say it in words.

    ``compared`` bands are, ``open`` ones will be, ``failed`` ones never. ``differing`` of the
    ``pixels`` compared differ, by at most ``largest``, where ``white`` is white.
    """

    compared: Count = 0
    open: Count = 0
    failed: Count = 0
    pixels: Count = 0
    differing: Count = 0
    largest: float = 0.0
    white: float = 255.0
    lines: Annotated[list[Text], Meta(max_length=20)] = []


class JobView(Part, frozen=True):
    """One job as a person sees it; immutable, published at most twice a second.

    ``created`` is wall time (seconds since 1970), for display only. ``pixels_*`` count the pixels
    that the frame needs rendered. ``error_code`` is the exit code the submitter ends with.
    ``mixed`` says so if tiles of several kinds of POV-Ray are in the picture, ``gone`` why picture
    or tiles of a job that has ended are no longer there. ``verify`` bands were to be rendered
    again; ``verified`` is what came of it, None before the picture is covered.
    ``fidelity`` is the class of how true the picture is, ``fidelity_reason`` says why.
    ``wasted_pixels`` were rendered in vain, ``dropped_results`` counts the whole tiles among them.
    ``making`` says so if its light is still being made. ``parse_s`` is how long its scene takes to
    parse, None while nobody knows; ``previewed``: where its bands are not there a preview of the
    picture is shown.
    """

    id: Ident
    number: Count
    title: Name
    owner: Name
    state: Literal[
        "queued", "running", "paused", "stitching", "verifying", "done", "failed", "cancelled"
    ]
    priority: int
    scene: Sha256
    width: Pixel
    height: Pixel
    region: RectTuple
    output_name: Name
    created: float
    elapsed_s: Seconds
    pixels_done: Count
    pixels_total: Count
    pixels_per_s: float = 0.0
    eta_s: float | None = None
    bands_done: Count = 0
    bands_running: Count = 0
    bands_waiting: Count = 0
    nodes: Annotated[list[Name], Meta(max_length=4096)] = []
    note: Text = ""
    error_code: ExitCode = 0
    error: Text = ""
    error_file: Annotated[str, Meta(max_length=4096)] = ""
    error_line: Count = 0
    error_text: LongText = ""
    mix: Mix = "never"
    mixed: Text = ""
    gone: Text = ""
    verify: Verify = 0
    verified: VerifiedView | None = None
    fidelity: FidelityKind = "not probed"
    fidelity_reason: Text = ""
    wasted_pixels: Count = 0
    dropped_results: Count = 0
    making: Text = ""
    parse_s: Seconds | None = None
    previewed: bool = False


class AttemptView(Part, frozen=True):
    """One try of a band, for ``show``.

    ``begun_s``, ``rendered_s`` and ``ended_s`` are the seconds from the job's submission to its
    lease, to when its node had the tile, and to its end.
    """

    id: Ident
    node: Name
    state: Ident
    phase: Phase
    reason: Text = ""
    seconds: PhaseSeconds | None = None
    begun_s: Seconds = 0.0
    rendered_s: Seconds | None = None
    ended_s: Seconds | None = None


class BandView(Part, frozen=True):
    """One band of a job, for ``show``."""

    id: Ident
    rect: RectTuple
    state: Ident
    attempts: Annotated[list[AttemptView], Meta(max_length=64)] = []
    stage: BandStage = "final"


class CheckView(Part, frozen=True):
    """One band rendered again: which, by whom, and what the comparison found, for ``show``.

    ``largest`` is the largest difference of each channel; ``reason`` says why there is none.
    """

    band: Ident
    rect: RectTuple
    state: Literal["open", "compared", "failed"]
    first: Name
    second: Name = ""
    pixels: Count = 0
    differing: Count = 0
    largest: Annotated[dict[Name, float], Meta(max_length=8)] = {}
    white: float = 255.0
    reason: Text = ""


class NodeView(Part, frozen=True):
    """One node as a person sees it; ``differs`` says how its POV-Ray differs from most, if so.

    ``reason`` says why it is away, unfit or kept off; ``kept_off_s`` for how long it is kept off
    the whole farm, None if it is not. ``failures`` counts those that were its own. ``next_job`` is
    that of the band it took before it had done with the one of ``job``, if that is another's.
    """

    name: Name
    uuid: Ident
    state: Literal["idle", "busy", "draining", "unfit", "kept-off", "away"]
    address: Name
    version: Name
    cores: Count
    threads: Count
    memory_bytes: Count
    povray: Name
    job: str = ""
    bands_done: Count = 0
    pixels_done: Count = 0
    reason: Text = ""
    povray_build: Name = ""
    canary_sha256: Sha256 | None = None
    includes_sha256: Sha256 | None = None
    differs: Text = ""
    failures: Count = 0
    kept_off_s: Seconds | None = None
    next_job: str = ""


class Setting(Part, frozen=True):
    """One value of a job's RenderSpec and the source that won it, for ``show``."""

    name: Name
    value: Text
    source: Text


class TokenView(Part, frozen=True):
    """One token, without its secret."""

    id: Ident
    role: Role
    name: Name
    created: float


# ---------------------------------------------------------------- both ways


class Hello(Message, frozen=True, tag="hello"):
    """First message of every peer: who it is, which protocols it speaks, its secret.

    ``uuid`` is kept in its work folder, ``instance`` is made anew at each start of a daemon.
    """

    role: Role
    protocol: tuple[Count, Count]
    secret: Annotated[str, Meta(max_length=256)]
    uuid: Ident
    name: Name
    version: Name
    node: NodeInfo | None = None
    instance: Name = ""

    def __repr__(self) -> str:
        return f"Hello(role={self.role!r}, uuid={self.uuid!r}, name={self.name!r})"


class Welcome(Message, frozen=True, tag="welcome"):
    """The head takes the peer in. ``farm`` is the uuid of the head's state folder."""

    protocol: Count
    version: Name
    farm: Ident
    ftp_port: Port
    http_port: Port
    heartbeat_s: Seconds
    silent_s: Seconds


class Bye(Message, frozen=True, tag="bye"):
    """The sender closes the connection, and why. ``retry`` False: do not come back unchanged."""

    reason: Text
    retry: bool = True


class Beat(Message, frozen=True, tag="beat"):
    """I am alive. Sent each ``heartbeat_s``, also while POV-Ray runs or a file is hashed."""


# ---------------------------------------------------------------- head -> node


class Lease(Message, frozen=True, tag="lease"):
    """Render this band. ``read`` fetches the scene, ``write`` is where the tile goes.

    ``stage`` "photons": shoot the scene's photons instead, "light": gather the band's radiosity
    samples; the file of these takes the tile's place. ``lights``: load these, and make none of
    their kinds. ``probe``: find out besides whether the frame depends on threads, and answer
    PROBED, at leisure. ``scout``: have a quick look at the whole frame, and answer SCOUTED. While
    it renders, finished blocks are wanted as BLOCKS, of a picture whose longer side has ``live``
    pixels; 0: none.
    """

    attempt: Ident
    band: Ident
    job: Ident
    frame: Count
    rect: RectTuple
    scene: SceneRef
    spec: dict[str, Any]
    read: Grant
    write: Grant
    stage: LeaseStage = "final"
    lights: Annotated[list[LightRef], Meta(max_length=2)] = []
    probe: bool = False
    scout: bool = False
    live: Pixel = 0


class Keep(Message, frozen=True, tag="keep"):
    """After a reconnect: this attempt still counts, go on; its tile now goes to ``write``."""

    attempt: Ident
    write: Grant


class Cut(Message, frozen=True, tag="cut"):
    """Render only ``keep`` of this attempt's band, its upper or left part, or a little more."""

    attempt: Ident
    keep: RectTuple


class Drop(Message, frozen=True, tag="drop"):
    """This attempt counts no more: stop it and forget it, whatever its state."""

    attempt: Ident
    reason: Text


class Accepted(Message, frozen=True, tag="accepted"):
    """The tile of this attempt is safe at the head; the node may delete its own."""

    attempt: Ident


# ---------------------------------------------------------------- node -> head


class Progress(Message, frozen=True, tag="progress"):
    """How far an attempt is; coalesced by the node to at most one each half second.

    ``moves`` counts what POV-Ray says while it renders besides pixels, such as photons shot.
    ``place``: what is left of it takes no longer than another band's start, so that the node has a
    place for one already; true ever after.
    """

    attempt: Ident
    phase: Phase
    done: Count = 0
    total: Count = 0
    moves: Count = 0
    place: bool = False


class CutTo(Message, frozen=True, tag="cut_to"):
    """The answer to CUT: the node renders ``keep``, and nothing else of the band from now on.

    At least what has begun; all of the band if it is too late. ``parses``: the tile of what it
    keeps takes a parse of the whole scene once more.
    """

    attempt: Ident
    keep: RectTuple
    parses: bool = True


class Uploading(Message, frozen=True, tag="uploading"):
    """The tile is rendered and follows by FTP; the node's place is free for the next lease."""

    attempt: Ident
    size: Count
    sha256: Sha256
    seconds: PhaseSeconds


class Done(Message, frozen=True, tag="done"):
    """The tile has been stored by FTP as announced.

    ``gathers`` counts the radiosity samples that POV-Ray had to add while it made the tile;
    ``used`` is the light that it says it used, ``text`` the tail of POV-Ray's output.
    """

    attempt: Ident
    seconds: PhaseSeconds
    gathers: Count = 0
    used: Annotated[list[LightKind], Meta(max_length=8)] = []
    text: LongText = ""


class Probed(Message, frozen=True, tag="probed"):
    """What came of the probe that was asked for with ``attempt``, however that one ended.

    ``found`` None: nothing did, and ``reason`` says why.
    """

    attempt: Ident
    found: ProbeView | None = None
    reason: Text = ""


class Scouted(Message, frozen=True, tag="scouted"):
    """What the scout saw that was asked for with ``attempt``; a finer one may follow.

    ``picture`` is the frame's region, small, as images.glimpse packs it. ``costs`` are those of the
    cells of a grid over the whole picture, row by row, ``columns`` in each; none while they are not
    known. ``parse_s`` are CPU seconds. With a ``reason`` nothing came of it.
    """

    attempt: Ident
    picture: Annotated[bytes, Meta(max_length=MAX_SCOUT_BYTES)] = b""
    columns: Columns = 0
    costs: Annotated[list[Seconds], Meta(max_length=MAX_CELLS)] = []
    parse_s: Seconds = 0.0
    reason: Text = ""


class Blocks(Message, frozen=True, tag="blocks"):
    """Blocks that POV-Ray has finished in an attempt that it still renders, to look at alone.

    ``picture`` is ``rect`` of the frame, small, packed as in SCOUTED.
    """

    attempt: Ident
    rect: RectTuple
    picture: Annotated[bytes, Meta(max_length=MAX_BLOCKS_BYTES)]


class Failed(Message, frozen=True, tag="failed"):
    """The attempt failed. ``fault``: the scene's own (no retry) or this node's.

    ``message`` is one sentence, POV-Ray's own where it gave one, with its ``file`` and ``line``;
    ``text`` is the tail of POV-Ray's output.
    """

    attempt: Ident
    fault: Literal["scene", "node"]
    message: Text
    file: Annotated[str, Meta(max_length=4096)] = ""
    line: Count = 0
    text: LongText = ""


class HandBack(Message, frozen=True, tag="handback"):
    """The node gives an attempt back unfinished; nobody is at fault."""

    attempt: Ident
    reason: Text


class Draining(Message, frozen=True, tag="draining"):
    """The node is about to leave: finish what it has, send it no more."""


class Unfit(Message, frozen=True, tag="unfit"):
    """The node cannot take bands now, and why; "": it can again."""

    reason: Text


# ---------------------------------------------------------------- client -> head


class Offer(Message, frozen=True, tag="offer"):
    """The client has this scene; its manifest follows in ``parts`` Manifest messages."""

    request: RequestId
    scene: Sha256
    files: Count
    bytes: Count
    parts: Annotated[int, Meta(ge=1, le=100_000)]


class Manifest(Message, frozen=True, tag="manifest"):
    """One part of an offered scene's manifest, in canonical order; parts count from 0."""

    request: RequestId
    part: Count
    entries: Annotated[list[Entry], Meta(max_length=20_000)]


class Staged(Message, frozen=True, tag="staged"):
    """The tar of the files the head lacked has been stored by FTP.

    ``packing`` says how it was packed on its way, "" if it was not; size and hash are of what came.
    """

    request: RequestId
    size: Count
    sha256: Sha256
    packing: Literal["", "zlib"] = ""


class Submit(Message, frozen=True, tag="submit"):
    """Make a job of a staged scene. The same ``key`` and content answers the existing job."""

    request: RequestId
    key: Ident
    scene: Sha256
    spec: dict[str, Any]
    output_name: Name
    title: Name = ""
    owner: Name = ""
    priority: Priority = 0
    bands: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    note: Text = ""
    mix: Mix = "never"
    verify: Verify = 0
    chance: Annotated[list[Chance], Meta(max_length=50)] = []


class Follow(Message, frozen=True, tag="follow"):
    """Send JobStatus now and at each change until the job has ended."""

    request: RequestId
    job: Ident


class Fetch(Message, frozen=True, tag="fetch"):
    """Where is the finished picture of this job? ``partial``: or what is there of it."""

    request: RequestId
    job: Ident
    partial: bool = False


class Cancel(Message, frozen=True, tag="cancel"):
    """Stop this job; its bands are dropped everywhere."""

    request: RequestId
    job: Ident


class Pause(Message, frozen=True, tag="pause"):
    """Lease nothing more of this job. ``now``: what renders is taken back, else it ends."""

    request: RequestId
    job: Ident
    now: bool = False


class Resume(Message, frozen=True, tag="resume"):
    """Let this paused job go on."""

    request: RequestId
    job: Ident


class Requeue(Message, frozen=True, tag="requeue"):
    """Run this job, which has ended, again: what is not covered, or ``everything``."""

    request: RequestId
    job: Ident
    everything: bool = False


class SetPriority(Message, frozen=True, tag="set_priority"):
    """Let this job have another priority from now on."""

    request: RequestId
    job: Ident
    priority: Priority


class Delete(Message, frozen=True, tag="delete"):
    """Let nothing of this job stay; ``force``: even if it has not ended."""

    request: RequestId
    job: Ident
    force: bool = False


class Logs(Message, frozen=True, tag="logs"):
    """What did POV-Ray say in each attempt of this job, or of one ``band`` of it?"""

    request: RequestId
    job: Ident
    band: Ident | None = None


class ListJobs(Message, frozen=True, tag="list_jobs"):
    """Which jobs are there?"""

    request: RequestId


class ListNodes(Message, frozen=True, tag="list_nodes"):
    """Which nodes are there?"""

    request: RequestId


class Forgive(Message, frozen=True, tag="forgive"):
    """Hold nothing against this node any more, named by its name or its uuid."""

    request: RequestId
    node: Annotated[str, Meta(min_length=1, max_length=255)]


class Show(Message, frozen=True, tag="show"):
    """Everything about one job."""

    request: RequestId
    job: Ident


class ListTokens(Message, frozen=True, tag="list_tokens"):
    """Admin: which tokens are there?"""

    request: RequestId


class MakeToken(Message, frozen=True, tag="make_token"):
    """Admin: make a token for ``role`` under ``name``."""

    request: RequestId
    role: Role
    name: Annotated[str, Meta(min_length=1, max_length=64)]


class RevokeToken(Message, frozen=True, tag="revoke_token"):
    """Admin: this token opens nothing from now on; its connections are closed."""

    request: RequestId
    id: Ident


# ---------------------------------------------------------------- head -> client


class Need(Message, frozen=True, tag="need"):
    """Which entries of the offered manifest the head lacks, as half-open index ranges.

    Empty: the head has them all and the scene is ready. Else store one tar of them by ``write``,
    packed by one of ``packings`` if that is faster.
    """

    request: RequestId
    ranges: Annotated[list[tuple[Count, Count]], Meta(max_length=20_000)]
    write: Grant | None = None
    packings: Annotated[list[Name], Meta(max_length=8)] = []


class SceneReady(Message, frozen=True, tag="scene_ready"):
    """The scene is whole at the head and held while this connection stands."""

    request: RequestId
    scene: Sha256


class Submitted(Message, frozen=True, tag="submitted"):
    """The job exists. ``existing``: it did already, from an earlier submit of the same key."""

    request: RequestId
    job: Ident
    existing: bool = False


class JobStatus(Message, frozen=True, tag="job_status"):
    """A followed job as it stands now."""

    request: RequestId
    job: JobView


class Jobs(Message, frozen=True, tag="jobs"):
    """The jobs, newest first, at most 1,000."""

    request: RequestId
    jobs: Annotated[list[JobView], Meta(max_length=1000)]


class Nodes(Message, frozen=True, tag="nodes"):
    """The nodes, by name."""

    request: RequestId
    nodes: Annotated[list[NodeView], Meta(max_length=5000)]


class JobDetail(Message, frozen=True, tag="job_detail"):
    """One job with its settings, at most 500 of its bands, and its submitter's note.

    ``light`` says in words what came of its light passes, "" if it had none; ``checks`` are the
    first 500 of its bands that were rendered again. ``chance`` is what the submitter found in the
    scene's text, ``probe`` what a node found, if one did.
    """

    request: RequestId
    job: JobView
    settings: Annotated[list[Setting], Meta(max_length=200)]
    bands: Annotated[list[BandView], Meta(max_length=500)]
    note: Text = ""
    light: Text = ""
    checks: Annotated[list[CheckView], Meta(max_length=500)] = []
    chance: Annotated[list[Chance], Meta(max_length=50)] = []
    probe: ProbeView | None = None


class AttemptLog(Message, frozen=True, tag="attempt_log"):
    """What POV-Ray said in one attempt; one for each, then Ok."""

    request: RequestId
    band: Ident
    rect: RectTuple
    stage: BandStage
    attempt: Ident
    node: Name
    state: Ident
    reason: Text = ""
    text: LongText = ""


class Result(Message, frozen=True, tag="result"):
    """The finished picture: its name, size and hash, and the login that reads it.

    ``partial``: it has holes, hatched, and only ``pixels_done`` of its ``pixels_total``.
    """

    request: RequestId
    name: Name
    size: Count
    sha256: Sha256
    read: Grant
    partial: bool = False
    pixels_done: Count = 0
    pixels_total: Count = 0


class Tokens(Message, frozen=True, tag="tokens"):
    """The tokens, without their secrets."""

    request: RequestId
    tokens: Annotated[list[TokenView], Meta(max_length=1000)]


class TokenMade(Message, frozen=True, tag="token_made"):
    """The new token, the only time it is shown."""

    request: RequestId
    id: Ident
    token: Annotated[str, Meta(max_length=1024)]

    def __repr__(self) -> str:
        return f"TokenMade(request={self.request!r}, id={self.id!r})"


class Ok(Message, frozen=True, tag="ok"):
    """It is done."""

    request: RequestId
    text: Text = ""


class Refused(Message, frozen=True, tag="refused"):
    """It was not done; ``code`` is the exit code a command ends with, ``message`` says why."""

    request: RequestId
    code: ExitCode
    message: Text
    file: Annotated[str, Meta(max_length=4096)] = ""
    line: Count = 0


FromNode: TypeAlias = (
    Hello
    | Bye
    | Beat
    | Progress
    | CutTo
    | Uploading
    | Done
    | Probed
    | Scouted
    | Blocks
    | Failed
    | HandBack
    | Draining
    | Unfit
)
ToNode: TypeAlias = Welcome | Bye | Beat | Lease | Keep | Cut | Drop | Accepted
FromClient: TypeAlias = (
    Hello
    | Bye
    | Beat
    | Offer
    | Manifest
    | Staged
    | Submit
    | Follow
    | Fetch
    | Cancel
    | Pause
    | Resume
    | Requeue
    | SetPriority
    | Delete
    | Logs
    | ListJobs
    | ListNodes
    | Forgive
    | Show
    | ListTokens
    | MakeToken
    | RevokeToken
)
ToClient: TypeAlias = (
    Welcome
    | Bye
    | Beat
    | Need
    | SceneReady
    | Submitted
    | JobStatus
    | Jobs
    | Nodes
    | JobDetail
    | AttemptLog
    | Result
    | Tokens
    | TokenMade
    | Ok
    | Refused
)
AnyMessage: TypeAlias = FromNode | ToNode | FromClient | ToClient

MESSAGE_TYPES: tuple[type[Message], ...] = get_args(AnyMessage)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyMessage] = msgspec.json.Decoder(AnyMessage)


class ProtocolError(Exception):
    """The peer sent what no peer of ours sends; the connection cannot go on."""


def encode(message: Message) -> bytes:
    """Give the whole frame of ``message``, length prefix included.

    Raises ProtocolError if it would be larger than any peer accepts.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        kind = type(message).__name__
        raise ProtocolError(f"{kind} of {len(body)} bytes is over the limit {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


class FrameDecoder:
    """Turns bytes as they arrive into messages; one thread owns it.

    ``limit`` is the largest frame accepted now, in bytes; raise it once the peer has shown its
    secret. After a ProtocolError the decoder stays broken.
    """

    def __init__(self, limit: int = MAX_HELLO_BYTES) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[AnyMessage]:
        """Take ``data`` and give the messages it completes, oldest first.

        Raises ProtocolError for a frame over the limit, bad JSON, an unknown type or a bad field.
        """
        self._buffer += data
        messages: list[AnyMessage] = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def _next(self) -> AnyMessage | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > self.limit:
            raise ProtocolError(f"a frame of {length} bytes is over the limit {self.limit}")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        try:
            return _decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"not a message: {error}") from None
