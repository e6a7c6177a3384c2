"""A submit from the folder to the picture: plan, stage, submit, follow, fetch.

Caller's thread. Each step can be done again: the job's key is made once, so that a submit repeated
after a lost connection answers the job that is there already.
"""

from __future__ import annotations

import ipaddress
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from clusterray.client.fetch import TRIES, fetch_picture, pause
from clusterray.client.follow import follow_job, outcome_fault
from clusterray.client.head_link import HeadLink, HeadLost, owner_name
from clusterray.client.local import LocalFarm
from clusterray.client.output import OutputFile, output_file, safe_name, wished_extension
from clusterray.client.report import Report
from clusterray.client.text import count_of, duration_text, fidelity_text, plain
from clusterray.core.errors import ClusterRayError, LocalFault, NoHead, SceneFault
from clusterray.core.model import Rect, VerifyBands
from clusterray.povray.scene import JobPlan, files_to_stage, plan_job
from clusterray.wire import manifest, protocol
from clusterray.wire.packing import SAMPLES, ZLIB, Packer, shrinks_to
from clusterray.wire.staging import StagingFault
from clusterray.wire.tar_writer import write_tar
from clusterray.wire.trust import JoinToken

_NAME_CHARS = 255
NODES_WITHIN_S = 10.0
"""How long the nodes of a farm that was started for one job are waited for."""
NODES_TICK_S = 0.02


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """What the command line asks for; ``verify`` None leaves it to job.yaml."""

    scene: Path
    povray_options: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    region: Rect | None = None
    out: str | None = None
    detach: bool = False
    only_needed: bool = False
    verify: VerifyBands | None = None
    home: Path = field(default_factory=Path.home)
    max_scene_bytes: int = 2 << 30
    max_scene_files: int = 20_000
    pack_below: float = 0.8
    """A scene is packed on its way to the head if a sample of it shrinks to less than this part."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that could be submitted: checked as far as can be without a head."""

    plan: JobPlan
    files: list[str]
    output: OutputFile
    pack_below: float = 0.8


def prepare(options: SubmitOptions, report: Report) -> Prepared:
    """Find out what is to be rendered and staged, and that the picture could be written.

    Raises UsageFault, SceneFault, LocalFault.
    """
    plan = plan_job(
        options.scene,
        options.povray_options,
        width=options.width,
        height=options.height,
        region=options.region,
        home=options.home,
        only_needed=options.only_needed,
        out_extension=wished_extension(options.out),
    )
    if options.verify is not None:
        plan.verify = options.verify
    output = output_file(options.out, plan.output_name, plan.spec.extension)
    if not options.detach:
        output.check_writable()
    files = files_to_stage(
        plan, max_bytes=options.max_scene_bytes, max_files=options.max_scene_files
    )
    for note in plan.notes:
        report.say(note)
    return Prepared(plan, files, output, options.pack_below)


class Submission:
    """One job on its way; ``job`` is its id once the head has accepted it.

    ``asked`` tells whether the head was asked to make it. ``passing``: the farm was started for
    this job and ends with it, and has so many nodes; None: it stands by itself.
    """

    def __init__(
        self,
        head: HeadLink,
        prepared: Prepared,
        report: Report,
        *,
        passing: Callable[[], int] | None = None,
    ) -> None:
        self._head = head
        self._passing = passing
        self._prepared = prepared
        self._plan = prepared.plan
        self._files = prepared.files
        self._output = prepared.output
        self._report = report
        self._key = uuid.uuid4().hex
        self._entries: list[protocol.Entry] = []
        self._scene = ""
        self._accepted_on = 0
        self._created: float | None = None
        self.asked = False
        self.job: str | None = None

    # ------------------------------------------------------------ getting it accepted

    def read_scene(self) -> None:
        """Read and hash the scene's files; raises SceneFault naming one that cannot be read."""
        root = self._plan.root
        elsewhere = self._plan.elsewhere
        total = sum(_size(elsewhere.get(name, root / name)) for name in self._files)
        with self._report.transfer("reading the scene", total) as advance:
            self._entries = manifest.build_manifest(root, self._files, advance, elsewhere=elsewhere)
        self._scene = manifest.scene_id(self._entries)

    def send(self) -> str:
        """Stage the scene and make the job; give its id.

        Raises SceneFault where the head refuses it, NoHead, LocalFault.
        """
        failures = 0
        while True:
            try:
                self._stage()
                self._await_nodes()
                self.job = self._make_job()
                self._accepted_on = self._head.connections
                return self.job
            except HeadLost as lost:
                failures += 1
                self._come_back(failures, lost.reason)
            except StagingFault as fault:
                failures += 1
                self._try_again(failures, str(fault))

    def _come_back(self, failures: int, reason: str) -> None:
        if self.job is not None:
            self._head.reopen(self.job)
            return
        if failures == TRIES:
            raise NoHead(f"cannot reach a head: the connection was lost {TRIES} times ({reason})")
        self._report.say(f"lost the head ({reason}), trying again")
        self._head.close()
        self._head.open()

    def _try_again(self, failures: int, reason: str) -> None:
        if failures == TRIES:
            raise LocalFault(f"the scene could not be uploaded: {reason}")
        pause(failures)

    def _stage(self) -> None:
        request = self._head.next_request()
        need = self._offer(request)
        if isinstance(need, protocol.SceneReady) or not need.ranges or need.write is None:
            return
        try:
            wanted = manifest.expand_ranges(need.ranges, len(self._entries))
        except protocol.ProtocolError as error:
            raise HeadLost(str(error)) from None
        entries = [self._entries[index] for index in wanted]
        staged = self._upload(request, entries, need.write, need.packings)
        self._head.ask(staged, request, protocol.SceneReady)

    def _offer(self, request: int) -> protocol.Need | protocol.SceneReady:
        parts = list(manifest.manifest_parts(self._entries))
        self._head.send(
            protocol.Offer(
                request=request,
                scene=self._scene,
                files=len(self._entries),
                bytes=sum(entry.size for entry in self._entries),
                parts=len(parts),
            )
        )
        for number, part in enumerate(parts):
            self._head.send(protocol.Manifest(request=request, part=number, entries=part))
        answer = self._head.wait(request, protocol.Need, protocol.SceneReady)
        assert isinstance(answer, protocol.Need | protocol.SceneReady)
        return answer

    def _upload(
        self,
        request: int,
        entries: list[protocol.Entry],
        grant: protocol.Grant,
        packings: list[str],
    ) -> protocol.Staged:
        packer = self._packer(entries) if ZLIB in packings else None
        content = sum(entry.size for entry in entries)
        with tempfile.TemporaryDirectory(prefix="clusterray-submit-") as folder:
            tar = Path(folder) / "scene.tar"
            with self._report.transfer("packing the scene", content) as advance:
                size, sha256 = write_tar(
                    self._plan.root, entries, tar, advance, elsewhere=self._plan.elsewhere
                )
            what = f"uploading {count_of(len(entries), 'file')}"
            session = self._head.ftp_session()
            try:
                with self._report.transfer(what, size) as advance:
                    session.upload(grant, tar, advance, packer)
            finally:
                session.close()
        if packer is not None:
            return protocol.Staged(request, packer.size, packer.sha256, ZLIB)
        return protocol.Staged(request, size, sha256)

    def _packer(self, entries: list[protocol.Entry]) -> Packer | None:
        """Give one if packing can be of use: not on this very machine, nor for what stays large."""
        if _is_this_machine(self._head.host):
            return None
        largest = sorted(entries, key=lambda entry: -entry.size)[:SAMPLES]
        root, elsewhere = self._plan.root, self._plan.elsewhere
        with ExitStack() as stack:
            files = (
                stack.enter_context(manifest.open_source(root, entry.path, elsewhere))
                for entry in largest
            )
            left = shrinks_to(files)
        return Packer() if left < self._prepared.pack_below else None

    def _await_nodes(self) -> None:
        """Let the nodes of a farm that was started for this job come, so that all share it at once;
        not for ever, for one of them may never come.
        """
        give_up_at = time.monotonic() + NODES_WITHIN_S
        while self._passing is not None and time.monotonic() < give_up_at:
            request = self._head.next_request()
            nodes = self._head.ask(protocol.ListNodes(request), request, protocol.Nodes).nodes
            if sum(node.state != "away" for node in nodes) >= self._passing():
                return
            time.sleep(NODES_TICK_S)

    def _make_job(self) -> str:
        plan = self._plan
        request = self._head.next_request()
        submit = protocol.Submit(
            request=request,
            key=self._key,
            scene=self._scene,
            spec=plan.spec.to_wire(),
            output_name=safe_name(plan.output_name, plan.spec.extension)[:_NAME_CHARS],
            title=plain(plan.title)[:_NAME_CHARS],
            owner=owner_name(),
            priority=plan.priority,
            bands=plan.bands,
            note=plain(" ".join(plan.notes))[:8192],
            mix=plan.mix,
            verify=plan.verify,
            chance=[
                protocol.Chance(plain(each.feature), plain(each.file), each.line)
                for each in plan.chance
            ],
        )
        self.asked = True
        return self._head.ask(submit, request, protocol.Submitted).job

    # ------------------------------------------------------------ until the picture is there

    def finish(self) -> None:
        """Follow the job to its end and fetch the picture.

        A head that was lost and came back without the job is given it again. Raises RenderFault,
        JobCancelled, LocalFault, SceneFault, NoHead.
        """
        while True:
            job = self.job or self.send()
            try:
                view = follow_job(
                    self._head,
                    job,
                    self._report,
                    is_ours=self._is_ours,
                    notes=self._passing is None,
                )
                if view.state == "done":
                    if view.mixed:
                        self._report.say(view.mixed)
                    for line in view.verified.lines if view.verified else ():
                        self._report.say(line)
                    fetch_picture(self._head, job, lambda _: self._output, self._report)
                    self._report.say(self._fidelity(view))
                    return
            except HeadLost:
                self._head.reopen(job)
            except SceneFault:
                if self._head.connections == self._accepted_on:
                    raise
                self._report.say(f"the head no longer knows job {job}; submitting it again")
                self._created = None
                self.send()
            else:
                raise outcome_fault(view, self._report, self._plan.root / self._plan.spec.start)

    def _fidelity(self, view: protocol.JobView) -> str:
        words = fidelity_text(view.fidelity, view.fidelity_reason)
        if view.fidelity != "being probed":
            return words
        if self._passing is not None:
            return "not probed: the job was over before a node had compared two small renders of it"
        return f"{words}; `clusterray show {view.id}` will tell"

    def _is_ours(self, view: protocol.JobView) -> bool:
        if self._created is None:
            self._created = view.created
        return view.scene == self._scene and view.created == self._created


# ---------------------------------------------------------------- both ways to run one


def submit_to_head(
    options: SubmitOptions,
    find_token: Callable[[], JoinToken],
    report: Report,
    tell: Callable[[str], None],
) -> None:
    """Submit to the head the token names; ``tell`` takes the picture's path, or the job's id.

    Raises the faults of the exit codes; KeyboardInterrupt after saying what becomes of the job.
    """
    began_at = time.monotonic()
    prepared = prepare(options, report)
    with HeadLink(find_token, say=report.say) as head:
        submission = Submission(head, prepared, report)
        try:
            head.open()
            submission.read_scene()
            job = submission.send()
            if options.detach:
                report.close()
                tell(job)
                return
            report.say(f"job {job} is submitted")
            submission.finish()
        except LocalFault as fault:
            raise _with_way_out(fault, submission.job) from None
        except KeyboardInterrupt:
            report.close()
            _say_what_goes_on(submission, report)
            raise
        report.close()
        tell(prepared.output.shown)
        report.say(f"job {job} took {duration_text(time.monotonic() - began_at)}")


def submit_locally(
    options: SubmitOptions, nodes: int, report: Report, tell: Callable[[str], None]
) -> None:
    """Start a farm of ``nodes`` nodes on this machine for the one job, and end it afterwards.

    Raises the faults of the exit codes; KeyboardInterrupt when all its processes are gone.
    """
    began_at = time.monotonic()
    words = (
        *("--max-scene-bytes", str(options.max_scene_bytes)),
        *("--max-scene-files", str(options.max_scene_files)),
    )
    try:
        with LocalFarm(nodes, head_words=words, say=report.say) as farm:
            # While its programs start.
            prepared = prepare(options, report)
            with HeadLink(farm.wait_ready, say=report.say, look=farm.check) as head:
                submission = Submission(head, prepared, report, passing=farm.nodes_running)
                submission.read_scene()
                farm.wait_ready()
                head.open()
                submission.send()
                try:
                    submission.finish()
                except LocalFault as fault:
                    raise _kept_elsewhere(fault, head, submission.job, prepared, report) from None
                report.close()
                tell(prepared.output.shown)
                report.say(f"took {duration_text(time.monotonic() - began_at)}")
    except KeyboardInterrupt:
        report.close()
        report.say("interrupted: the job is cancelled and nothing of it runs any more")
        raise


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _with_way_out(fault: LocalFault, job: str | None) -> LocalFault:
    if job is None:
        return fault
    return LocalFault(f"{fault.message}; the head has the job: clusterray fetch {job} -o FILE")


def _kept_elsewhere(
    fault: LocalFault, head: HeadLink, job: str | None, prepared: Prepared, report: Report
) -> LocalFault:
    """Save a picture that cannot be written where it belongs: its farm is about to go."""
    if job is None:
        return fault
    folder = Path(tempfile.mkdtemp(prefix="clusterray-picture-"))
    spare = OutputFile(folder / prepared.output.path.name, str(folder))
    try:
        fetch_picture(head, job, lambda _: spare, report)
    except (ClusterRayError, HeadLost):
        shutil.rmtree(folder, ignore_errors=True)
        return fault
    return LocalFault(f"{fault.message}; the picture is kept as {spare.path}")


def _say_what_goes_on(submission: Submission, report: Report) -> None:
    job = submission.job
    if job is None and submission.asked:
        report.say("interrupted: the head may have the job already; see clusterray jobs")
        return
    if job is None:
        report.say("interrupted: nothing was submitted")
        return
    report.say(f"interrupted: job {job} goes on")
    report.lines(
        [
            f"  follow it:        clusterray show {job}",
            f"  get the picture:  clusterray fetch {job}",
            f"  stop it:          clusterray cancel {job}",
        ]
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
