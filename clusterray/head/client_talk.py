"""The conversation with a submitter or a command: scenes are taken in here, the rest is asked.

Runs on the connection's own thread.
"""

from __future__ import annotations

import dataclasses
import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clusterray.core.errors import ClusterRayError, LocalFault, SceneFault
from clusterray.core.model import Chance, JobRequest, SceneId
from clusterray.head.conversation import Conversation, Introduction, Services
from clusterray.head.grants import FileGrant
from clusterray.head.letters import (
    Asked,
    ClientOpened,
    Hold,
    NewJob,
    PartialPlan,
    TokenRevoked,
)
from clusterray.head.partials import Partials, TilesChanged
from clusterray.images.formats import check_supported
from clusterray.images.tile import TileFault
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from clusterray.wire.link import Link
from clusterray.wire.manifest import missing_ranges, scene_id
from clusterray.wire.packing import ZLIB, unpack
from clusterray.wire.protocol import AnyMessage, Entry, Grant, Message, ProtocolError

TAR_MEMBER_BYTES = 4096 + 1024
"""Room for the headers of one member of an uploaded tar, long names included."""
TAR_END_BYTES = 65_536
WRAPPING_PART = 1024
"""What is packed but does not shrink grows by less than this part of it."""
HOLD_SECONDS = 30.0
MAX_QUESTIONS = 8
"""So many questions and orders of one connection wait for the task manager at most."""
_ASK_AGAIN_S = 0.1
MAX_NAME_BYTES = 200
"""Leaves room for what is put behind a name while its file is being written."""
UPLOAD_FILE = "scene.tar"
COPIES_OF_A_SCENE = 2
"""A scene that comes lies on the disk twice: what was uploaded, and the tar made of it."""


@dataclass(slots=True)
class _Offered:
    """A scene under way from this client."""

    offer: msg.Offer
    entries: list[Entry]
    parts: int = 0
    upload: FileGrant | None = None
    tar_bytes: int = 0


class ClientTalk(Conversation):
    """A submitter or a command: scenes are taken in here, the rest is asked of the farm."""

    role = "client"

    def __init__(self, number: int, link: Link, services: Services, card: Introduction) -> None:
        super().__init__(number, link, services, card)
        self._offered: _Offered | None = None
        self._ready: set[str] = set()
        self._may_ask = threading.BoundedSemaphore(MAX_QUESTIONS)
        self._partials = Partials(services.partials, services.ftp, number)

    def _open(self) -> None:
        self._post(ClientOpened(self._number, self, self._record.id))

    def ended(self) -> None:
        """Nothing half uploaded stays, and no partial picture."""
        self._drop_offer()
        self._partials.discard()

    def _take(self, message: AnyMessage) -> None:
        try:
            super()._take(message)
        except ClusterRayError as fault:
            self._refuse(message, fault)

    def _refuse(self, message: Any, fault: ClusterRayError) -> None:
        self._link.send(
            msg.Refused(
                message.request,
                fault.exit_code,
                fault.message,
                fault.file or "",
                fault.line or 0,
            )
        )

    def _ask(self, question: Any) -> None:
        # Who asks faster than the farm's keeper answers waits, and not the others behind it.
        while not self._may_ask.acquire(timeout=_ASK_AGAIN_S):
            self._link.service()
        asked = Asked(self._number, question, self._hello.name, self._record, self._may_ask.release)
        self._post(asked)

    def _make_partial(self, plan: PartialPlan) -> None:
        self._partials.discard()
        try:
            answer = self._partials.make(plan, self._link.service)
        except TilesChanged:
            # The job has ended meanwhile, or begun anew: what is there now is asked anew.
            self._ask(msg.Fetch(plan.request, plan.job, partial=True))
        except TileFault as fault:
            text = f"the head cannot put together what is there of job {plan.job}: {fault}"
            self._link.send(msg.Refused(plan.request, LocalFault.exit_code, text))
        except OSError as error:
            text = f"the head cannot write the picture: {error.strerror or error}"
            self._link.send(msg.Refused(plan.request, LocalFault.exit_code, text))
        else:
            self._link.send(answer)

    # ------------------------------------------------ scenes

    def _offer(self, offer: msg.Offer) -> None:
        self._drop_offer()
        settings = self._services.settings
        if offer.files > settings.max_scene_files or offer.bytes > settings.max_scene_bytes:
            raise SceneFault(
                f"a scene of {offer.files} files and {offer.bytes} bytes is over this head's "
                f"limits of {settings.max_scene_files} files and {settings.max_scene_bytes} "
                "bytes (settings max_scene_files, max_scene_bytes)"
            )
        self._offered = _Offered(offer, [])

    def _manifest(self, part: msg.Manifest) -> None:
        offered = self._offered
        if offered is None or part.request != offered.offer.request:
            # The offer was refused while its parts were on their way.
            return
        if part.part != offered.parts:
            raise ProtocolError("a manifest part out of order")
        offered.parts += 1
        offered.entries += part.entries
        if len(offered.entries) > offered.offer.files:
            raise ProtocolError("more manifest entries than were offered")
        if offered.parts == offered.offer.parts:
            self._answer_offer(offered)

    def _answer_offer(self, offered: _Offered) -> None:
        scene = SceneId(offered.offer.scene)
        if scene_id(offered.entries) != scene:
            raise SceneFault("the manifest is not the one that the scene's id names; submit again")
        self._hold(scene, sum(entry.size for entry in offered.entries))
        if self._services.scenes.has(scene):
            self._nothing_needed(offered)
            return
        missing = self._services.scenes.missing(offered.entries)
        if not missing:
            self._assemble(offered)
            self._nothing_needed(offered)
            return
        write = self._grant_upload(offered, missing)
        ranges = missing_ranges(missing)
        self._link.send(msg.Need(offered.offer.request, ranges, write, [ZLIB]))

    def _hold(self, scene: SceneId, size: int) -> None:
        """Have the scene kept from now on; raises SceneFault if there is no room for it."""
        hold = Hold(self._number, scene, COPIES_OF_A_SCENE * size, queue.SimpleQueue())
        self._post(hold)
        try:
            refusal = hold.answer.get(timeout=HOLD_SECONDS)
        except queue.Empty:
            raise SceneFault("the head is too busy to take the scene in; submit again") from None
        if refusal:
            raise SceneFault(refusal)

    def _nothing_needed(self, offered: _Offered) -> None:
        self._offered = None
        self._ready.add(offered.offer.scene)
        self._link.send(msg.Need(offered.offer.request, []))

    def _grant_upload(self, offered: _Offered, missing: list[int]) -> Grant:
        size = sum(offered.entries[index].size + TAR_MEMBER_BYTES for index in missing)
        offered.tar_bytes = size + TAR_END_BYTES
        offered.upload = FileGrant(
            user=f"s-{self._number}-{offered.offer.request}",
            password=secrets.token_hex(16),
            path=UPLOAD_FILE,
            real=self._services.scenes.begin_upload(SceneId(offered.offer.scene)),
            mode="write",
            max_bytes=offered.tar_bytes + offered.tar_bytes // WRAPPING_PART,
        )
        self._services.ftp.grant(offered.upload)
        return Grant(offered.upload.user, offered.upload.password, offered.upload.path)

    def _staged(self, staged: msg.Staged) -> None:
        offered = self._offered
        if offered is None or offered.upload is None or staged.request != offered.offer.request:
            raise ProtocolError("STAGED without an offer")
        self._services.ftp.revoke(offered.upload.user)
        # Its size alone: each file in it is hashed when the scene is put together.
        if _size_of(offered.upload.real) != staged.size:
            raise SceneFault("the scene arrived damaged; submit again")
        if staged.packing:
            self._unpack(offered, offered.upload)
        self._assemble(offered)
        self._offered = None
        self._ready.add(offered.offer.scene)
        self._link.send(msg.SceneReady(offered.offer.request, offered.offer.scene))

    def _unpack(self, offered: _Offered, upload: FileGrant) -> None:
        scenes = self._services.scenes
        plain = scenes.begin_upload(SceneId(offered.offer.scene))
        try:
            unpack(upload.real, plain, offered.tar_bytes, self._link.service)
        except BaseException:
            scenes.discard_upload(plain)
            raise
        finally:
            scenes.discard_upload(upload.real)
        offered.upload = dataclasses.replace(upload, real=plain)

    def _assemble(self, offered: _Offered) -> None:
        scene = SceneId(offered.offer.scene)
        upload = offered.upload
        self._services.scenes.assemble(
            scene, offered.entries, upload.real if upload else None, self._link.service
        )
        offered.upload = None

    def _drop_offer(self) -> None:
        offered, self._offered = self._offered, None
        if offered is not None and offered.upload is not None:
            self._services.ftp.revoke(offered.upload.user)
            self._services.scenes.discard_upload(offered.upload.real)

    # ------------------------------------------------ jobs

    def _submit(self, submit: msg.Submit) -> None:
        if submit.scene not in self._ready:
            raise SceneFault("the scene is not here yet: offer it first")
        spec = RenderSpec.from_wire(submit.spec)
        request = JobRequest(
            # Two submitters' keys never meet, whatever they choose.
            key=f"{self._record.id}/{submit.key}",
            title=submit.title or spec.input,
            owner=submit.owner or self._hello.name,
            priority=submit.priority,
            scene=SceneId(submit.scene),
            spec=submit.spec,
            spec_hash=spec.digest(),
            picture=spec.picture(),
            wish_bands=submit.bands,
            output_name=_plain_name(submit.output_name),
            note=submit.note,
            # One band needs no light of others, so it is left to POV-Ray as it is.
            light=() if submit.bands == 1 else spec.light,
            mix=submit.mix,
            verify=submit.verify,
            chance=tuple(Chance(each.feature, each.file, each.line) for each in submit.chance),
            token=self._record.id,
        )
        self._check_size(request)
        self._check_bands(request)
        check_supported(spec.file_format, spec.width, spec.height)
        self._post(NewJob(self._number, submit.request, request, spec))

    def _check_size(self, request: JobRequest) -> None:
        limit = self._services.settings.max_pixels
        pixels = request.picture.width * request.picture.height
        if pixels > limit:
            raise SceneFault(
                f"{request.picture.width}x{request.picture.height} is {pixels} pixels, "
                f"over this head's limit of {limit} (setting max_pixels)"
            )

    def _check_bands(self, request: JobRequest) -> None:
        limit = self._services.settings.max_bands
        if request.wish_bands is not None and request.wish_bands > limit:
            raise SceneFault(
                f"{request.wish_bands} bands are over this head's limit of {limit} "
                "(setting max_bands)"
            )

    # ------------------------------------------------ tokens

    def _admin(self) -> None:
        if self._record.role != "admin":
            raise SceneFault("only an admin token may see, make or revoke tokens")

    def _list_tokens(self, question: msg.ListTokens) -> None:
        self._admin()
        views = [
            msg.TokenView(record.id, record.role, record.name, record.created)
            for record in self._services.tokens.list()
        ]
        self._link.send(msg.Tokens(question.request, views))

    def _make_token(self, question: msg.MakeToken) -> None:
        self._admin()
        record, text = self._services.tokens.make(question.role, question.name)
        self._link.send(msg.TokenMade(question.request, record.id, text))

    def _revoke_token(self, question: msg.RevokeToken) -> None:
        self._admin()
        record = self._services.tokens.revoke(question.id)
        self._link.send(msg.Ok(question.request, f"token {record.id} ({record.name}) is revoked"))
        self._post(TokenRevoked(record.id))

    handlers: ClassVar[Mapping[type[Message], Callable[[Any, Any], None]]] = {
        msg.Offer: _offer,
        msg.Manifest: _manifest,
        msg.Staged: _staged,
        msg.Submit: _submit,
        msg.ListTokens: _list_tokens,
        msg.MakeToken: _make_token,
        msg.RevokeToken: _revoke_token,
        **dict.fromkeys(
            (
                msg.Follow,
                msg.Fetch,
                msg.Logs,
                msg.Cancel,
                msg.Pause,
                msg.Resume,
                msg.Requeue,
                msg.SetPriority,
                msg.Delete,
                msg.ListJobs,
                msg.ListNodes,
                msg.Forgive,
                msg.Show,
            ),
            _ask,
        ),
    }


def _size_of(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def _plain_name(name: str) -> str:
    """Give the output's file name if it is one that any disk takes; raises SceneFault."""
    plain = name.isprintable() and "/" not in name and not name.startswith(".")
    if not name or not plain or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise SceneFault(
            f"{name!r:.80} is not a plain file name for the picture, "
            f"at most {MAX_NAME_BYTES} bytes and not beginning with a dot"
        )
    return name
