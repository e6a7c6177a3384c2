"""What stands in for the head, and scenes to render: shared by the tests of the node."""

from __future__ import annotations

import functools
import logging
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from PIL import Image
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer

from clusterray.core.model import Rect
from clusterray.node.sandbox import (
    Limits,
    Sandbox,
    Wall,
    choose_sandbox,
    look_for_walls,
    memory_for_povray,
)
from clusterray.povray.scene import plan_job
from clusterray.povray.spec import RenderSpec
from clusterray.wire.link import Link
from clusterray.wire.manifest import build_manifest, scene_id
from clusterray.wire.protocol import (
    AnyMessage,
    Bye,
    Grant,
    Hello,
    Keep,
    Lease,
    Message,
    Progress,
    SceneRef,
    Welcome,
)
from clusterray.wire.tar_writer import write_tar
from clusterray.wire.trust import JoinToken

POVRAY = shutil.which("povray") or "povray"
ANSWER_S = 30.0
FARM = "farm-one"
SECRET = "a-secret-of-more-than-sixteen-letters"

M = TypeVar("M", bound=Message)

# Else pyftpdlib sets up logging for the whole process.
logging.getLogger("pyftpdlib").addHandler(logging.NullHandler())

SPHERES = """
#version 3.7;
#include "colors.inc"
#include "parts/ball.inc"
global_settings { assumed_gamma 1 }
camera { location <0, 1, -4> look_at 0 }
light_source { <3, 5, -6> White }
plane { y, -1 pigment { checker Red Yellow } finish { reflection 0.3 } }
object { Ball }
"""
BALL = '#declare Ball = sphere { 0, 1 pigment { image_map { png "parts/map one.png" } } };\n'

SLOW = """
#version 3.7;
global_settings { assumed_gamma 1 }
camera { location -3*z look_at 0 }
light_source { <3, 5, -6> rgb 1 area_light x*4, y*4, 30, 30 }
#declare N = 0;
#while (N < 40)
  sphere { <sin(N), cos(N*2), N/10>, 0.4 pigment { granite } finish { reflection 0.6 } }
  #declare N = N + 1;
#end
"""


@dataclass
class Scene:
    """A scene folder with its RenderSpec, and its tar as the head would stage it."""

    root: Path
    spec: RenderSpec
    tar: Path
    ref: SceneRef

    def plain(self, target: Path, *more: str) -> Path:
        """Render the whole picture, or the part that ``more`` says, with plain povray."""
        size = [f"+W{self.spec.width}", f"+H{self.spec.height}"]
        argv = [POVRAY, "-D", "+A0.3", "+AM1", *size, *more, f'+I"{self.spec.input}"']
        argv.append(f'+O"{target}"')
        subprocess.run(argv, cwd=self.root, check=True, capture_output=True)
        return target


def make_scene(folder: Path, text: str, *, width: int = 48, height: int = 96) -> Scene:
    """Make a scene below ``folder``: main file, include and image map, names with spaces."""
    root = folder / "a scene"
    (root / "parts").mkdir(parents=True)
    (root / "main file.pov").write_text(text)
    (root / "parts" / "ball.inc").write_text(BALL)
    Image.effect_noise((32, 32), 80).convert("RGB").save(root / "parts" / "map one.png")
    plan = plan_job(
        root / "main file.pov",
        ["+A0.3", "+AM1"],
        width=width,
        height=height,
        region=None,
        home=folder,
    )
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    entries = build_manifest(root, names)
    tar = folder / "scene.tar"
    size, _digest = write_tar(root, entries, tar)
    return Scene(root, plan.spec, tar, SceneRef(scene_id(entries), size))


def open_field() -> Sandbox:
    """No wall: what stands in for POV-Ray needs a shell and its programs."""
    return Sandbox(Wall.NONE, Limits(memory_for_povray(0)))


@functools.cache
def walled() -> Sandbox:
    """The wall that a node has on this machine."""
    return choose_sandbox("auto", look_for_walls(), Limits(memory_for_povray(0)), ())


def sandbox_for(povray: str, scene: Scene) -> Sandbox:
    """POV-Ray itself runs as on a node."""
    return walled().reading(scene.root) if povray == POVRAY else open_field()


class FtpStage:
    """A real FTP server on loopback in a thread; each grant is a login of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authorizer = DummyAuthorizer()
        self._grants = 0
        self.served: list[str] = []
        stage = self

        class Handler(FTPHandler):  # type: ignore[misc]
            authorizer = self._authorizer
            auth_failed_timeout = 0.01

            def on_file_sent(self, file: str) -> None:
                stage.served.append(Path(file).name)

        self._loop = IOLoop()
        self._server = FTPServer(("127.0.0.1", 0), Handler, ioloop=self._loop)
        self.port: int = self._server.address[1]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="stage")
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._loop.loop(timeout=0.05, blocking=False)
        self._server.close_all()

    def grant(self, name: str, *, write: bool) -> Grant:
        """Let one file be read or written."""
        self._grants += 1
        user = f"u{self._grants}"
        self._authorizer.add_user(user, "pass", str(self.folder), perm="w" if write else "r")
        return Grant(user, "pass", name)

    def revoke(self, grant: Grant) -> None:
        """Let the grant open nothing from now on."""
        self._authorizer.remove_user(grant.user)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)


@dataclass
class Conversation:
    """One connection of the node, seen from the head; the test's thread owns it."""

    link: Link
    hello: Hello
    progress: list[Progress] = field(default_factory=list)

    def welcome(self, ftp_port: int, farm: str = FARM) -> None:
        self.send(Welcome(1, "test", farm, ftp_port, 0, 1.0, 16.0))

    def send(self, message: Message) -> None:
        self.link.send(message)
        self.link.flush(ANSWER_S)

    def receive(self) -> AnyMessage:
        """Give the next message but for Progress, which is collected."""
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until:
            message = self.link.receive(1.0)
            if isinstance(message, Progress):
                self.progress.append(message)
            elif message is not None:
                return message
        raise AssertionError(f"the node said nothing in {ANSWER_S} s")

    def expect(self, kind: type[M]) -> M:
        message = self.receive()
        assert isinstance(message, kind), message
        return message

    def expect_progress(self, phase: str) -> Progress:
        """Wait for a report of this phase; nothing else may come before it."""
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until:
            message = self.link.receive(1.0)
            assert message is None or isinstance(message, Progress), message
            if message is not None and message.phase == phase:
                return message
        raise AssertionError(f"no progress of {phase} in {ANSWER_S} s")

    def hang_up(self) -> None:
        self.link.close()


class HeadDouble:
    """The head's listening socket and FTP server; what is said is up to the test."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.stage = FtpStage(folder)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(ANSWER_S)
        self.port: int = self._listener.getsockname()[1]
        self._open: list[Link] = []
        self._leases = 0

    @property
    def token(self) -> str:
        return JoinToken("127.0.0.1", self.port, "node", "", SECRET).encode()

    def answer(self) -> Conversation:
        """Take the next connection and its HELLO."""
        sock, _address = self._listener.accept()
        link = Link(sock)
        self._open.append(link)
        hello = link.receive(ANSWER_S)
        assert isinstance(hello, Hello), hello
        return Conversation(link, hello)

    def meet(self, farm: str = FARM) -> Conversation:
        """Take the next connection and welcome it."""
        talk = self.answer()
        talk.welcome(self.stage.port, farm)
        return talk

    def lease(self, scene: Scene, rect: Sequence[int], attempt: str = "") -> Lease:
        """Stage the scene and make a lease of one band."""
        self._leases += 1
        attempt = attempt or f"a{self._leases}"
        tar = self.stage.folder / scene.tar.name
        if not tar.exists():
            shutil.copy(scene.tar, tar)
        return Lease(
            attempt=attempt,
            band=f"b{self._leases}",
            job="j1",
            frame=0,
            rect=Rect(*rect).as_tuple(),
            scene=scene.ref,
            spec=scene.spec.to_wire(),
            read=self.stage.grant(scene.tar.name, write=False),
            write=self.stage.grant(f"{attempt}.part", write=True),
        )

    def keep(self, attempt: str) -> Keep:
        return Keep(attempt, self.stage.grant(f"{attempt}.again", write=True))

    def close(self) -> None:
        for link in self._open:
            link.close()
        self._listener.close()
        self.stage.stop()


def said_goodbye(talk: Conversation) -> Bye:
    return talk.expect(Bye)
