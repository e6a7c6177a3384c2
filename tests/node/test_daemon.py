from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageChops

from clusterray.core.errors import LocalFault, NoHead
from clusterray.node.daemon import run_node
from clusterray.node.sandbox import NO_WALL
from clusterray.node.settings import NodeSettings
from clusterray.node.stop import StopFlag
from clusterray.wire.protocol import (
    Accepted,
    Bye,
    Done,
    Draining,
    Drop,
    Failed,
    HandBack,
    Uploading,
)
from clusterray.wire.trust import JoinToken
from tests.node import stand_ins
from tests.node.doubles import SECRET, SLOW, SPHERES, Conversation, HeadDouble, make_scene

TOP, MIDDLE, BOTTOM = (0, 0, 48, 32), (0, 32, 48, 64), (0, 64, 48, 96)


class Node:
    """run_node in a thread, as a test starts and ends it."""

    def __init__(self, settings: NodeSettings) -> None:
        self.settings = settings
        self.stop = StopFlag()
        self.outcome: int | Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcome = run_node(self.settings, stop=self.stop, environ={}, home=Path("/"))
        except (LocalFault, NoHead) as fault:
            self.outcome = fault

    def end(self, timeout_s: float = 30) -> int | Exception | None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the node did not end"
        self.stop.close()
        return self.outcome

    def kill(self) -> None:
        if self._thread.is_alive():
            self.stop.request()
            self.stop.request()
        self.end()


StartNode = Callable[..., Node]


@pytest.fixture
def start_node(head: HeadDouble, tmp_path: Path) -> Iterator[StartNode]:
    nodes: list[Node] = []

    def start(**changes: object) -> Node:
        settings = NodeSettings(
            work=tmp_path / "the work", join=head.token, name="n1", threads=1, drain_s=20
        )
        if "povray" in changes:
            settings = replace(settings, sandbox=NO_WALL)
        nodes.append(Node(replace(settings, **changes)))  # type: ignore[arg-type]
        return nodes[-1]

    yield start
    for node in nodes:
        node.kill()


class Listener(logging.Handler):
    """Waits for words in the log."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words
        self.heard = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.heard.set()


def leftovers(tmp_path: Path) -> list[str]:
    return sorted(each.name for each in (tmp_path / "the work" / "attempts").iterdir())


def finish_band(talk: Conversation) -> Done:
    """Hear a band to its end and accept it."""
    uploading = talk.expect(Uploading)
    done = talk.expect(Done)
    assert done.attempt == uploading.attempt
    talk.send(Accepted(done.attempt))
    return done


# ---------------------------------------------------------------- the whole conversation


def test_bands_of_a_scene_arrive_as_plain_povray_would_make_them(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    node = start_node()
    talk = head.meet()
    assert talk.hello.role == "node" and talk.hello.secret == SECRET
    assert talk.hello.node is not None and talk.hello.node.threads == 1
    assert talk.hello.node.povray_version.startswith("3.")
    leases = [head.lease(scene, rect) for rect in (TOP, MIDDLE, BOTTOM)]
    for lease in leases:
        talk.send(lease)
    announced: dict[str, Uploading] = {}
    done: set[str] = set()
    while len(done) < len(leases):
        message = talk.receive()
        if isinstance(message, Uploading):
            announced[message.attempt] = message
        else:
            assert isinstance(message, Done) and message.attempt in announced, message
            assert message.seconds.upload > 0
            done.add(message.attempt)
            talk.send(Accepted(message.attempt))
    plain = Image.open(scene.plain(tmp_path / "plain.png"))
    for lease in leases:
        tile = head.stage.folder / f"{lease.attempt}.part"
        data = tile.read_bytes()
        told = announced[lease.attempt]
        assert (len(data), hashlib.sha256(data).hexdigest()) == (told.size, told.sha256)
        assert told.seconds.render > 0
        wanted = plain.crop(lease.rect)
        assert Image.open(tile).mode == wanted.mode == "RGB"
        assert ImageChops.difference(Image.open(tile), wanted).getbbox() is None
    assert head.stage.served == ["scene.tar"], "the scene crosses the network once"
    node.stop.request()
    talk.expect(Draining)
    talk.expect(Bye)
    assert node.end() == 0
    assert leftovers(tmp_path) == []


def test_hello_says_what_povray_makes_of_the_canary(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    start_node()
    said = head.meet().hello.node
    assert said is not None and len(said.canary) == 64 * 48 * 3
    assert said.canary_sha256 == hashlib.sha256(said.canary).hexdigest()
    assert said.includes_sha256 is not None
    assert (tmp_path / "the work" / "canary.json").is_file()
    assert not (tmp_path / "the work" / "canary").exists()


@pytest.mark.slow
def test_a_povray_that_changed_is_tested_before_it_renders_another_band(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    program = Path(stand_ins.stand_in(tmp_path, stand_ins.ITSELF))
    start_node(povray=str(program))
    talk = head.meet()
    assert talk.hello.node is not None
    talk.send(head.lease(scene, TOP))
    assert finish_band(talk).attempt == "a1"
    # As a package manager does: another file under the name.
    coarse = program.with_name("new")
    coarse.write_text(program.read_text().replace('"$@"', '"$@" +Q3'))
    coarse.chmod(0o755)
    coarse.replace(program)
    talk.send(head.lease(scene, MIDDLE))
    talk.send(head.lease(scene, BOTTOM))
    talk.expect(Draining)
    assert {talk.expect(HandBack).attempt, talk.expect(HandBack).attempt} == {"a2", "a3"}
    assert "POV-Ray" in talk.expect(Bye).reason
    back = head.meet()
    assert back.hello.uuid == talk.hello.uuid and back.hello.node is not None
    assert back.hello.node.canary_sha256 not in (None, talk.hello.node.canary_sha256)
    assert (back.hello.node.rendering, back.hello.node.rendered) == ([], [])
    back.send(head.lease(scene, BOTTOM, "a4"))
    assert finish_band(back).attempt == "a4"


def test_a_povray_that_breaks_while_the_node_runs_is_waited_for(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Listener("cannot be used")
    monkeypatch.setattr(logging.getLogger("clusterray.node.daemon"), "handlers", [said])
    program = Path(stand_ins.stand_in(tmp_path, stand_ins.ITSELF))
    start_node(povray=str(program))
    talk = head.meet()
    program.rename(program.with_name("away"))
    talk.hang_up()
    assert said.heard.wait(30)
    program.with_name("away").rename(program)
    assert head.meet().hello.node is not None


def test_a_node_whose_povray_cannot_render_the_canary_says_so_and_ends(
    start_node: StartNode, tmp_path: Path
) -> None:
    program = tmp_path / "broken"
    program.write_text('#!/bin/sh\ncase "$1" in --version) echo POV-Ray 3.7.0; esac\nexit 1\n')
    program.chmod(0o755)
    fault = start_node(povray=str(program)).end()
    assert isinstance(fault, LocalFault) and fault.exit_code == 1
    assert "joins no farm" in fault.message and str(program) in fault.message


def test_a_scene_fault_comes_back_in_povrays_words(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES + "sphere { oops }\n")
    start_node()
    talk = head.meet()
    talk.send(head.lease(scene, TOP))
    failed = talk.expect(Failed)
    assert failed.fault == "scene" and failed.file == "main file.pov"
    assert failed.line == SPHERES.count("\n") + 1
    assert "oops" in failed.message and "Parse Error" in failed.text


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (stand_ins.SHORT_FILE, "picture"),
        (stand_ins.NO_FILE, "picture"),
        (stand_ins.KILLED, "SIGKILL"),
    ],
)
def test_a_povray_that_leaves_no_good_picture_is_the_nodes_failure(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, behaviour: str, words: str
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    node = start_node(povray=stand_ins.stand_in(tmp_path, behaviour))
    talk = head.meet()
    talk.send(head.lease(scene, TOP))
    failed = talk.expect(Failed)
    assert failed.fault == "node" and words in failed.message
    node.stop.request()
    talk.expect(Draining)
    talk.expect(Bye)
    assert node.end() == 0
    assert leftovers(tmp_path) == []


def test_a_scene_that_arrives_damaged_twice_is_the_nodes_failure(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    lease = head.lease(scene, TOP)
    tar = head.stage.folder / scene.tar.name
    tar.write_bytes(tar.read_bytes().replace(b"assumed_gamma 1", b"assumed_gamma 2"))
    start_node()
    talk = head.meet()
    talk.send(lease)
    failed = talk.expect(Failed)
    assert failed.fault == "node" and "arrived damaged" in failed.message
    assert head.stage.served == ["scene.tar", "scene.tar"]
    assert [each.name for each in (tmp_path / "the work" / "scenes").iterdir()] == ["boot"]


# ---------------------------------------------------------------- DROP, and the grants of the dead


def test_a_drop_in_the_middle_kills_povray_and_the_next_band_goes_on(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SLOW, width=320, height=320)
    start_node()
    talk = head.meet()
    talk.send(head.lease(scene, (0, 0, 320, 320)))
    talk.expect_progress("rendering")
    povrays = psutil.Process().children(recursive=True)
    assert povrays
    talk.send(Drop("a1", "its job was cancelled"))
    _gone, alive = psutil.wait_procs(povrays, timeout=10)
    assert not alive
    small = head.lease(scene, (0, 0, 32, 1), "a2")
    talk.send(small)
    assert finish_band(talk).attempt == "a2"


def test_a_drop_ends_a_povray_that_hangs(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    start_node(povray=stand_ins.stand_in(tmp_path, stand_ins.HANG))
    talk = head.meet()
    talk.send(head.lease(scene, TOP))
    talk.expect_progress("parsing")
    povrays = psutil.Process().children(recursive=True)
    assert povrays
    talk.send(Drop("a1", "its deadline passed"))
    _gone, alive = psutil.wait_procs(povrays, timeout=10)
    assert not alive


@pytest.mark.slow
def test_a_tile_whose_grant_was_revoked_is_no_failure(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    start_node()
    talk = head.meet()
    dead = head.lease(scene, TOP)
    head.stage.revoke(dead.write)
    talk.send(dead)
    assert talk.expect(Uploading).attempt == "a1"
    live = head.lease(scene, MIDDLE)
    talk.send(live)
    # Had the refused grant been reported, or held the thread up, this would not come next.
    assert finish_band(talk).attempt == "a2"
    talk.send(Drop("a1", "another node was faster"))
    talk.send(head.lease(scene, BOTTOM))
    assert finish_band(talk).attempt == "a3"


def test_a_refused_scene_waits_for_the_drop(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    start_node()
    talk = head.meet()
    dead = head.lease(scene, TOP)
    head.stage.revoke(dead.read)
    talk.send(dead)
    talk.send(head.lease(scene, MIDDLE))
    talk.send(Drop("a1", "its job was cancelled"))
    assert finish_band(talk).attempt == "a2"


def test_trouble_on_the_way_is_tried_again(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    lease = head.lease(scene, TOP)
    tar = head.stage.folder / scene.tar.name
    whole = tar.read_bytes()
    tar.write_bytes(whole[:100])
    start_node()
    talk = head.meet()
    talk.send(lease)
    while head.stage.served != ["scene.tar"]:
        talk.link.receive(0.05)
    tar.write_bytes(whole)
    assert finish_band(talk).attempt == "a1"


# ---------------------------------------------------------------- lost connections


@pytest.mark.slow
def test_a_lost_connection_does_not_stop_the_work(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    start_node()
    talk = head.meet()
    lease = head.lease(scene, TOP)
    head.stage.revoke(lease.write)
    talk.send(lease)
    talk.expect(Uploading)
    talk.hang_up()
    back = head.meet()
    assert back.hello.uuid == talk.hello.uuid
    assert back.hello.node is not None
    assert (back.hello.node.rendering, back.hello.node.rendered) == ([], ["a1"])
    keep = head.keep("a1")
    back.send(keep)
    finish_band(back)
    tile = Image.open(head.stage.folder / keep.write.path)
    plain = Image.open(scene.plain(tmp_path / "plain.png")).crop(TOP)
    assert ImageChops.difference(tile, plain).getbbox() is None


@pytest.mark.slow
def test_a_band_in_work_survives_the_connection(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SLOW, width=96, height=96)
    start_node()
    talk = head.meet()
    talk.send(head.lease(scene, (0, 32, 64, 64)))
    talk.expect_progress("rendering")
    (povray,) = psutil.Process().children()
    talk.hang_up()
    back = head.meet()
    assert back.hello.node is not None and back.hello.node.rendering == ["a1"]
    assert povray.is_running()
    back.send(head.keep("a1"))
    finish_band(back)


def test_a_scene_on_its_way_survives_the_connection(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    lease = head.lease(scene, TOP)
    tar = head.stage.folder / scene.tar.name
    whole = tar.read_bytes()
    tar.write_bytes(whole[:100])
    start_node()
    talk = head.meet()
    talk.send(lease)
    while not head.stage.served:
        talk.link.receive(0.05)
    talk.hang_up()
    tar.write_bytes(whole)
    back = head.meet()
    assert back.hello.node is not None and back.hello.node.rendering == ["a1"]
    back.send(head.keep("a1"))
    assert finish_band(back).attempt == "a1"


@pytest.mark.slow
def test_attempts_of_another_farm_are_not_offered_to_this_one(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SLOW, width=320, height=320)
    start_node()
    talk = head.meet(farm="farm-one")
    talk.send(head.lease(scene, (0, 0, 320, 320)))
    talk.expect_progress("rendering")
    povrays = psutil.Process().children(recursive=True)
    talk.hang_up()
    back = head.meet(farm="farm-two")
    _gone, alive = psutil.wait_procs(povrays, timeout=10)
    assert not alive
    back.send(head.lease(scene, (0, 0, 32, 1), "a2"))
    assert finish_band(back).attempt == "a2"


def test_a_head_that_refuses_is_asked_again(
    head: HeadDouble, start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    start_node()
    for _ in range(2):
        refused = head.answer()
        refused.send(Bye("this token is unknown here", retry=False))
        refused.hang_up()
    head.meet()
    told = [record for record in caplog.records if "this token is unknown" in record.message]
    assert len(told) == 1


def test_the_token_is_read_again_at_each_connection(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    file = tmp_path / "node token"
    file.write_text(head.token)
    start_node(join=str(file))
    talk = head.meet()
    file.write_text(head.token.replace("cr1-", "cr9-"))
    talk.hang_up()
    part = tmp_path / "part"
    part.write_text(head.token)
    part.replace(file)
    head.meet()


# ---------------------------------------------------------------- leaving


def test_a_draining_node_finishes_its_band_and_hands_the_rest_back(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SLOW, width=96, height=96)
    node = start_node()
    talk = head.meet()
    talk.send(head.lease(scene, (0, 32, 64, 64)))
    talk.send(head.lease(scene, (0, 64, 96, 96)))
    talk.expect_progress("rendering")
    node.stop.request()
    talk.expect(Draining)
    assert talk.expect(HandBack).attempt == "a2"
    assert finish_band(talk).attempt == "a1"
    talk.expect(Bye)
    assert node.end() == 0
    assert leftovers(tmp_path) == []


def test_a_band_that_outlasts_the_drain_is_handed_back(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SPHERES)
    node = start_node(povray=stand_ins.stand_in(tmp_path, stand_ins.HANG), drain_s=0.5)
    talk = head.meet()
    talk.send(head.lease(scene, TOP))
    talk.expect_progress("parsing")
    node.stop.request()
    talk.expect(Draining)
    assert talk.expect(HandBack).attempt == "a1"
    talk.expect(Bye)
    assert node.end() == 0
    assert leftovers(tmp_path) == []


def test_the_second_stop_is_obeyed_at_once(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterray.node.renderer.TERMINATE_S", 1000.0)
    scene = make_scene(tmp_path, SPHERES)
    node = start_node(povray=stand_ins.stand_in(tmp_path, stand_ins.IGNORE_TERM), drain_s=1000)
    talk = head.meet()
    talk.send(head.lease(scene, TOP))
    talk.expect_progress("parsing")
    node.stop.request()
    talk.expect(Draining)
    node.stop.request()
    assert talk.expect(HandBack).attempt == "a1"
    talk.expect(Bye)
    assert node.end() == 0
    assert leftovers(tmp_path) == []


def test_a_node_without_a_head_can_leave(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    node = start_node()
    talk = head.answer()
    node.stop.request()
    talk.hang_up()
    assert node.end(5) == 0


# ---------------------------------------------------------------- starting


def test_two_nodes_cannot_share_a_work_folder(head: HeadDouble, start_node: StartNode) -> None:
    start_node()
    head.meet()
    fault = start_node().end()
    assert isinstance(fault, LocalFault) and fault.exit_code == 1
    assert f"process id {os.getpid()}" in fault.message


@pytest.mark.parametrize("join", ["", "cr1-nonsense", "/nowhere/token"])
def test_a_node_without_a_token_does_not_start(start_node: StartNode, join: str) -> None:
    fault = start_node(join=join).end()
    assert isinstance(fault, NoHead)
    assert fault.message.startswith("cannot reach a head: ")


def test_a_node_started_with_its_head_waits_for_the_token(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    token = tmp_path / "node.token"
    node = start_node(join=str(token), join_wait_s=60.0)
    token.write_text(head.token)
    talk = head.meet()
    node.stop.request()
    talk.hang_up()
    assert node.end() == 0


def test_a_node_that_waits_for_its_token_ends_when_told(
    start_node: StartNode, tmp_path: Path
) -> None:
    node = start_node(join=str(tmp_path / "node.token"), join_wait_s=3600.0)
    node.stop.request()
    assert node.end() == 0


def test_a_submitters_token_is_not_for_a_node(start_node: StartNode, head: HeadDouble) -> None:
    token = JoinToken("127.0.0.1", head.port, "submit", "", SECRET).encode()
    fault = start_node(join=token).end()
    assert isinstance(fault, NoHead) and "'submit'" in fault.message


def test_a_machine_without_povray_is_told_what_to_install(start_node: StartNode) -> None:
    fault = start_node(povray="no-such-povray").end()
    assert isinstance(fault, LocalFault)
    assert fault.message == "no-such-povray was not found: apt install povray"


def test_a_work_folder_that_is_none_is_named(start_node: StartNode, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fault = start_node(work=tmp_path / "file").end()
    assert isinstance(fault, LocalFault) and str(tmp_path / "file") in fault.message


def test_a_work_folder_that_povray_cannot_be_told_is_named(
    start_node: StartNode, tmp_path: Path
) -> None:
    fault = start_node(work=tmp_path / "größer").end()
    assert isinstance(fault, LocalFault) and "größer" in fault.message
    assert not (tmp_path / "größer").exists()


def test_a_relative_work_folder_will_do(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scene = make_scene(tmp_path, SPHERES)
    start_node(work=Path("the work"))
    talk = head.meet()
    talk.send(head.lease(scene, TOP))
    assert finish_band(talk).attempt == "a1"


def test_a_killed_node_leaves_no_povray_and_its_next_start_cleans_up(
    head: HeadDouble, start_node: StartNode, tmp_path: Path
) -> None:
    scene = make_scene(tmp_path, SLOW, width=320, height=320)
    work = tmp_path / "the work"
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from clusterray.node.daemon import run_node\n"
        "from clusterray.node.settings import NodeSettings\n"
        "from clusterray.node.stop import StopFlag\n"
        "work, join = sys.argv[1:]\n"
        "run_node(NodeSettings(Path(work), join, threads=1), stop=StopFlag())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(work), head.token]) as process:
        talk = head.meet()
        talk.send(head.lease(scene, (0, 0, 320, 320)))
        talk.expect_progress("rendering")
        povrays = psutil.Process(process.pid).children(recursive=True)
        assert povrays
        process.send_signal(signal.SIGKILL)
    _gone, alive = psutil.wait_procs(povrays, timeout=10)
    assert not alive
    assert leftovers(tmp_path) == ["a1"]
    start_node()
    back = head.meet()
    assert back.hello.uuid == talk.hello.uuid
    assert back.hello.node is not None and back.hello.node.rendering == []
    assert leftovers(tmp_path) == []
