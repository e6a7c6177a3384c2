"""Make-believe nodes and clients that speak to a real head over real sockets and FTP."""

from __future__ import annotations

import ftplib
import hashlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from PIL import Image

from clusterray import __version__
from clusterray.core.model import Rect
from clusterray.head.server import Head
from clusterray.head.settings import HeadSettings
from clusterray.povray.spec import RenderSpec
from clusterray.wire import protocol as msg
from clusterray.wire.link import Link, connect
from clusterray.wire.manifest import build_manifest, manifest_parts, scene_id
from clusterray.wire.protocol import Message
from clusterray.wire.staging import FtpSession
from clusterray.wire.tar_writer import write_tar
from clusterray.wire.trust import JoinToken

ANSWER_S = 20.0
M = TypeVar("M", bound=Message)


class RunningHead:
    """A head in this process, and its tokens."""

    def __init__(self, state: Path, **settings: object) -> None:
        self.state = state
        self.head = Head(HeadSettings(state, heartbeat_s=0.2, **settings))  # type: ignore[arg-type]
        self.ready = self.head.start()
        self._main = threading.Thread(target=self.head.run, name="main-of-head")
        self._main.start()

    def stop(self) -> None:
        self.head.request_stop()
        self._main.join()
        self.head.stop()

    def token(self, role: str) -> JoinToken:
        return JoinToken.decode((self.state / f"{role}.token").read_text())


@contextmanager
def running_head(state: Path, **settings: object) -> Iterator[RunningHead]:
    head = RunningHead(state, **settings)
    try:
        yield head
    finally:
        head.stop()


class Peer:
    """One connection to the head, driven by the test."""

    def __init__(self, head: RunningHead, link: Link | None = None) -> None:
        """Connect, or speak over ``link``, which goes by another way."""
        self.head = head
        self.link = link or Link(dial(head), heartbeat_s=0.2)
        self.link.trust_peer()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()

    def say(self, message: Message) -> None:
        self.link.send(message)
        assert self.link.flush(ANSWER_S)

    def hear(self, kind: type[M]) -> M:
        """Give the next message, which must be of ``kind``; progress of others is passed over."""
        while True:
            message = self.link.receive(ANSWER_S)
            assert message is not None, f"no {kind.__name__} came"
            if isinstance(message, kind):
                return message
            assert isinstance(message, msg.JobStatus), f"{message} instead of {kind.__name__}"

    def hello(self, as_role: msg.Role, **changes: object) -> msg.Hello:
        """Give a good HELLO of the role, but for the changes."""
        role = as_role
        node = msg.NodeInfo(2, 1, 1 << 30, "3.7", "test") if role == "node" else None
        values: dict[str, object] = {
            "role": role,
            "protocol": (msg.PROTOCOL_MIN, msg.PROTOCOL_MAX),
            "secret": self.head.token(role).secret,
            "uuid": f"uuid-{role}",
            "name": f"a-{role}",
            "version": __version__,
            "node": node,
        }
        return msg.Hello(**{**values, **changes})  # type: ignore[arg-type]

    def join(self, role: msg.Role, **changes: object) -> msg.Welcome:
        self.say(self.hello(role, **changes))
        return self.hear(msg.Welcome)

    # ------------------------------------------------ a client's part

    def stage(self, folder: Path, request: int = 1) -> str:
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        entries = build_manifest(folder, names)
        scene = scene_id(entries)
        parts = list(manifest_parts(entries))
        size = sum(entry.size for entry in entries)
        self.say(msg.Offer(request, scene, len(entries), size, len(parts)))
        for number, part in enumerate(parts):
            self.say(msg.Manifest(request, number, part))
        need = self.hear(msg.Need)
        if need.write is None:
            return scene
        wanted = [entries[i] for start, end in need.ranges for i in range(start, end)]
        tar = folder.parent / "upload.tar"
        tar.unlink(missing_ok=True)
        tar_size, sha256 = write_tar(folder, wanted, tar)
        upload(self.head, need.write, tar)
        self.say(msg.Staged(request, tar_size, sha256))
        self.hear(msg.SceneReady)
        return scene

    def submit(self, scene: str, key: str = "k1", request: int = 2, **changes: object) -> str:
        spec = RenderSpec(input="a.pov", width=8, height=64)
        submit = msg.Submit(request, key, scene, spec.to_wire(), "a.png")
        self.say(msgspec.structs.replace(submit, **changes))
        return self.hear(msg.Submitted).job

    # ------------------------------------------------ a node's part

    def deliver(self, lease: msg.Lease, tile: bytes | None = None) -> None:
        """Upload a tile, the right one if none is given, and say DONE."""
        self.announce(lease, tile)
        self.say(msg.Done(lease.attempt, msg.PhaseSeconds()))

    def announce(self, lease: msg.Lease, tile: bytes | None = None) -> None:
        data = tile_of(Rect(*lease.rect)) if tile is None else tile
        digest = hashlib.sha256(data).hexdigest()
        self.say(msg.Uploading(lease.attempt, len(data), digest, msg.PhaseSeconds()))
        path = self.head.state.parent / f"{lease.attempt}.png"
        path.write_bytes(data)
        upload(self.head, lease.write, path)


def wait_until_holds(folder: Path, *stems: str) -> None:
    """Wait until just the files of these stems are below ``folder``: deleting is no hurry."""
    deadline = time.monotonic() + ANSWER_S
    while (left := {path.stem for path in folder.rglob("*")}) != set(stems):
        assert time.monotonic() < deadline, f"{folder} still holds {left}"
        threading.Event().wait(0.005)


def dial(head: RunningHead, port: int = 0) -> socket.socket:
    """Connect to the head, by way of another ``port`` if one is given."""
    pin = head.token("node").fingerprint
    return connect("127.0.0.1", port or head.ready.control, 5, pin)


def raw_login(head: RunningHead, grant: msg.Grant) -> ftplib.FTP_TLS:
    """Log in as a program of its own would, ready to move the grant's file."""
    ftp = ftplib.FTP_TLS(timeout=20)
    ftp.connect("127.0.0.1", head.ready.ftp)
    ftp.login(grant.user, grant.password)
    ftp.prot_p()
    ftp.voidcmd("TYPE I")
    return ftp


def upload(head: RunningHead, grant: msg.Grant, path: Path) -> None:
    session = FtpSession("127.0.0.1", head.ready.ftp, head.token("node").fingerprint)
    try:
        session.upload(grant, path)
    finally:
        session.close()


def download(head: RunningHead, grant: msg.Grant, target: Path) -> None:
    session = FtpSession("127.0.0.1", head.ready.ftp, head.token("node").fingerprint)
    try:
        session.download(grant, target, None)
    finally:
        session.close()


def tile_of(rect: Rect) -> bytes:
    """A tile of the right size whose pixels tell their row."""
    image = Image.new("RGB", (rect.width, rect.height))
    for y in range(rect.height):
        for x in range(rect.width):
            image.putpixel((x, y), (rect.x0 + x, rect.y0 + y, 7))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
