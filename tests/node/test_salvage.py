"""Finished blocks of renders that were killed, cut or left behind by a killed daemon."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest
from PIL import Image, ImageChops

from clusterray.core.blocks import BlockGrid
from clusterray.core.model import FileFormat, Rect
from clusterray.images.tile import crop_tile
from clusterray.node.cut_line import CutLine
from clusterray.node.folders import AttemptFolder
from clusterray.node.held import Held
from clusterray.node.holdings import Holdings
from clusterray.node.machine import boot_id
from clusterray.node.renderer import BlocksDone, Render, RenderCancelled
from clusterray.node.salvage import Salvage
from clusterray.node.scene_cache import link_tree
from clusterray.povray.state_file import (
    Block,
    BlockCanvas,
    Origin,
    StateReader,
    keep_blocks,
    read_blocks,
)
from clusterray.wire.protocol import Failed, Grant, LightRef
from tests.node import stand_ins
from tests.node.doubles import (
    ANSWER_S,
    POVRAY,
    SLOW,
    SPHERES,
    Conversation,
    HeadDouble,
    Scene,
    make_scene,
    sandbox_for,
)
from tests.node.test_daemon import StartNode, finish_band, start_node

__all__ = ["start_node"]

SLOWISH = SLOW.replace("30, 30", "12, 12")
WIDTH, HEIGHT = 128, 160
WHOLE = Rect(0, 0, WIDTH, HEIGHT)
GRID = BlockGrid(WHOLE, 32)
BUILD = ("3.7.0.10", "a build")


@pytest.fixture(scope="module")
def slowish(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Image.Image, Path]:
    """Give a scene, plain POV-Ray's picture of it, and the state file of all its blocks."""
    folder = tmp_path_factory.mktemp("slowish")
    scene = make_scene(folder, SLOWISH, width=WIDTH, height=HEIGHT)
    # POV-Ray empties the file and takes only this one of its names away at the end.
    (folder / "plain.pov-state").touch()
    os.link(folder / "plain.pov-state", folder / "all.pov-state")
    with Image.open(scene.plain(folder / "plain.png")) as picture:
        picture.load()
        return scene, picture, folder / "all.pov-state"


def same(tile: Path, plain: Image.Image, rect: Rect = WHOLE) -> bool:
    with Image.open(tile) as ours:
        wanted = plain.crop(rect.as_tuple())
        assert (ours.mode, ours.size) == (wanted.mode, wanted.size)
        return ImageChops.difference(ours, wanted).getbbox() is None


def some_blocks(state: Path, count: int, target: Path) -> None:
    """Write the first blocks of a state file, and a piece of the next one, as a kill leaves it."""
    blocks = list(read_blocks(state))
    data = state.read_bytes()[: 512 + sum(len(block.record) for block in blocks[:count])]
    target.write_bytes(data + blocks[-1].record[:777])


# ---------------------------------------------------------------- POV-Ray is killed


def wait_for_blocks(talk: Conversation, state: Path, count: int) -> None:
    give_up_at = time.monotonic() + ANSWER_S
    while len(list(read_blocks(state))) < count:
        talk.link.receive(0.02)
        assert time.monotonic() < give_up_at


def stop_in_the_middle(talk: Conversation, work: Path) -> tuple[psutil.Process, Path, list[Block]]:
    """Freeze POV-Ray once it has some blocks; give it, its file's second name, and the blocks."""
    state = AttemptFolder(work / "attempts" / "a1").blocks
    wait_for_blocks(talk, state, 3)
    second = work / "second"
    os.link(state, second)
    (povray,) = psutil.Process().children()
    povray.suspend()
    while povray.status() != psutil.STATUS_STOPPED:
        talk.link.receive(0.02)
    return povray, second, list(read_blocks(second))


def test_a_povray_that_is_killed_is_gone_on_from_and_nothing_is_rendered_twice(
    head: HeadDouble,
    start_node: StartNode,
    tmp_path: Path,
    slowish: tuple[Scene, Image.Image, Path],
) -> None:
    scene, plain, _state = slowish
    start_node()
    talk = head.meet()
    talk.send(head.lease(scene, WHOLE.as_tuple()))
    povray, second, finished = stop_in_the_middle(talk, tmp_path / "the work")
    assert 3 <= len(finished) < GRID.count
    povray.kill()
    assert finish_band(talk).attempt == "a1"
    blocks = list(read_blocks(second))
    assert blocks[: len(finished)] == finished
    assert sorted(block.serial for block in blocks) == list(range(GRID.count)), "each just once"
    assert same(head.stage.folder / "a1.part", plain)


@pytest.mark.slow
def test_somebody_elses_sigterm_is_no_failure_either(
    head: HeadDouble,
    start_node: StartNode,
    tmp_path: Path,
    slowish: tuple[Scene, Image.Image, Path],
) -> None:
    scene, plain, _state = slowish
    start_node()
    talk = head.meet()
    talk.send(head.lease(scene, WHOLE.as_tuple()))
    povray, second, finished = stop_in_the_middle(talk, tmp_path / "the work")
    povray.terminate()
    povray.resume()
    assert finish_band(talk).attempt == "a1"
    blocks = list(read_blocks(second))
    assert blocks[: len(finished)] == finished
    assert sorted(block.serial for block in blocks) == list(range(GRID.count))
    assert same(head.stage.folder / "a1.part", plain)


DIES_OVER_THE_PICTURE = (
    'if [ -e "{log}" ]; then exec "{povray}" "$@"; fi; {renders}; '
    'echo x >> "{log}"; head -c 100 "$out" > half; cp half "$out"; kill -KILL $$'
)


def test_a_povray_that_is_killed_over_its_picture_renders_nothing_again(
    head: HeadDouble,
    start_node: StartNode,
    tmp_path: Path,
    slowish: tuple[Scene, Image.Image, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene, plain, _state = slowish
    behaviour = DIES_OVER_THE_PICTURE.format(
        log=tmp_path / "log", povray=POVRAY, renders=stand_ins.TO_ITS_END
    )
    start_node(povray=stand_ins.stand_in(tmp_path, behaviour))
    talk = head.meet()
    upper = Rect(0, 0, WIDTH, 64)
    talk.send(head.lease(scene, upper.as_tuple()))
    assert finish_band(talk).attempt == "a1"
    assert same(head.stage.folder / "a1.part", plain, upper)
    assert "going on from what it had finished, 100 %" in caplog.text


DIES_AT_THE_SAME_PLACE = 'cp "{state}" "${{out%.png}}.pov-state"; echo x >> "{log}"; kill -KILL $$'
GETS_FURTHER = (
    'echo x >> "{log}"; n=$(wc -l < "{log}"); '
    'cp "{state}.$n" "${{out%.png}}.pov-state"; kill -KILL $$'
)


@pytest.mark.parametrize(
    ("behaviour", "runs"),
    [(DIES_AT_THE_SAME_PLACE, 2), (GETS_FURTHER, 3)],
    ids=["at the same place", "further each time"],
)
def test_a_povray_that_is_killed_again_and_again_is_the_nodes_failure(
    head: HeadDouble,
    start_node: StartNode,
    tmp_path: Path,
    slowish: tuple[Scene, Image.Image, Path],
    behaviour: str,
    runs: int,
) -> None:
    scene, _plain, state = slowish
    cut = tmp_path / "cut"
    some_blocks(state, 3, cut)
    for run in range(1, 6):
        some_blocks(state, 2 * run, tmp_path / f"cut.{run}")
    log = tmp_path / "log"
    program = stand_ins.stand_in(tmp_path, behaviour.format(state=cut, log=log))
    start_node(povray=program)
    talk = head.meet()
    talk.send(head.lease(scene, WHOLE.as_tuple()))
    failed = talk.expect(Failed)
    assert failed.fault == "node" and "SIGKILL" in failed.message
    assert log.read_text().count("x") == runs


@pytest.mark.parametrize("light", ["radiosity { }", "photons { count 100 }"])
def test_a_scene_whose_light_would_be_made_anew_is_not_gone_on_with(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, light: str
) -> None:
    scene = make_scene(tmp_path, SPHERES.replace("assumed_gamma 1", f"assumed_gamma 1 {light}"))
    source = tmp_path / "x.pov-state"
    source.touch()
    os.link(source, tmp_path / "all")
    scene.plain(tmp_path / "x.png")
    log = tmp_path / "log"
    behaviour = DIES_AT_THE_SAME_PLACE.format(state=tmp_path / "all", log=log)
    start_node(povray=stand_ins.stand_in(tmp_path, behaviour))
    talk = head.meet()
    talk.send(head.lease(scene, (0, 0, 48, 96)))
    assert talk.expect(Failed).fault == "node"
    assert log.read_text().count("x") == 1


# ---------------------------------------------------------------- the daemon is killed


RUN_NODE = """
import sys
from pathlib import Path
from clusterray.node.daemon import run_node
from clusterray.node.settings import NodeSettings
from clusterray.node.stop import StopFlag
work, join = sys.argv[1:]
run_node(NodeSettings(Path(work), join, threads=1), stop=StopFlag())
"""


@pytest.mark.slow
def test_a_killed_daemon_goes_on_from_the_blocks_it_had(
    head: HeadDouble,
    start_node: StartNode,
    tmp_path: Path,
    slowish: tuple[Scene, Image.Image, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    scene, plain, _state = slowish
    work = tmp_path / "the work"
    state = AttemptFolder(work / "attempts" / "a1").blocks
    argv = [sys.executable, "-c", RUN_NODE, str(work), head.token]
    with subprocess.Popen(argv) as process:
        talk = head.meet()
        talk.send(head.lease(scene, WHOLE.as_tuple()))
        wait_for_blocks(talk, state, 6)
        povrays = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(povrays, timeout=10)
    finished = len(list(read_blocks(state)))
    assert 6 <= finished < GRID.count
    start_node()
    talk = head.meet()
    assert not state.exists()
    # Cut where another node has taken the rest over meanwhile, and then the rest after all.
    upper, lower = WHOLE.split_at_row(64)
    talk.send(head.lease(scene, upper.as_tuple(), "a2"))
    assert finish_band(talk).attempt == "a2"
    talk.send(head.lease(scene, lower.as_tuple(), "a3"))
    assert finish_band(talk).attempt == "a3"
    assert same(head.stage.folder / "a2.part", plain, upper)
    assert same(head.stage.folder / "a3.part", plain, lower)
    said = [record.getMessage() for record in caplog.records]
    in_upper = min(finished, 8)
    assert any(f"{in_upper} of its 8 blocks are kept" in line for line in said)
    if finished > 8:
        assert any(f"{finished - 8} of its 12 blocks are kept" in line for line in said)


def test_what_is_kept_is_used_up_by_a_lease_of_all_of_it(
    head: HeadDouble,
    start_node: StartNode,
    tmp_path: Path,
    slowish: tuple[Scene, Image.Image, Path],
) -> None:
    scene, plain, state = slowish
    node = start_node()
    talk = head.meet()
    node.kill()
    attempt = left_behind(tmp_path / "the work", scene, state, povray=identity(talk))
    # So that its pixels can be told from rendered ones.
    whiten(attempt.blocks)
    start_node()
    talk = head.meet()
    assert sorted(path.suffix for path in (tmp_path / "the work" / "blocks").iterdir()) == [
        ".json",
        ".pov-state",
    ]
    talk.send(head.lease(scene, WHOLE.as_tuple(), "a2"))
    assert finish_band(talk).attempt == "a2"
    with Image.open(head.stage.folder / "a2.part") as tile:
        assert tile.crop((0, 0, 32, 32)).getcolors() == [(1024, (255, 255, 255))]
        rest = (32, 0, WIDTH, HEIGHT)
        assert ImageChops.difference(tile.crop(rest), plain.crop(rest)).getbbox() is None
    assert list((tmp_path / "the work" / "blocks").iterdir()) == []


@pytest.mark.parametrize(
    "other",
    [
        "build",
        "boot",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("version", "spec", "scene", "light", "frame")
        ),
    ],
)
def test_blocks_of_another_making_are_not_used(
    head: HeadDouble,
    start_node: StartNode,
    tmp_path: Path,
    slowish: tuple[Scene, Image.Image, Path],
    other: str,
) -> None:
    scene, plain, state = slowish
    node = start_node()
    version, build = identity(head.meet())
    node.kill()
    attempt = left_behind(tmp_path / "the work", scene, state, povray=(version, build))
    whiten(attempt.blocks)
    origin = origin_of(scene, (version, build))
    changes = {
        "version": replace(origin, povray=(version + "x", build)),
        "build": replace(origin, povray=(version, build + "x")),
        "spec": replace(origin, spec="e" * 64),
        "scene": replace(origin, scene="e" * 64),
        "light": replace(origin, light="e" * 64),
        "boot": replace(origin, boot="before the power failed"),
        "frame": replace(origin, frame=1),
    }
    changes[other].write(attempt.origin)
    start_node()
    talk = head.meet()
    talk.send(head.lease(scene, (0, 0, 32, 32), "a2"))
    assert finish_band(talk).attempt == "a2"
    assert same(head.stage.folder / "a2.part", plain, Rect(0, 0, 32, 32))


def identity(talk: Conversation) -> tuple[str, str]:
    info = talk.hello.node
    assert info is not None
    seen = f"{info.canary_sha256 or ''} {info.includes_sha256 or ''}"
    return info.povray_version, f"{info.povray_build} {seen}"


def origin_of(scene: Scene, povray: tuple[str, str] = BUILD, rect: Rect = WHOLE) -> Origin:
    return Origin(scene.ref.id, scene.spec.digest(), 0, povray, "", boot_id(), rect)


def left_behind(
    work: Path, scene: Scene, state: Path, *, povray: tuple[str, str] = BUILD, name: str = "a1"
) -> AttemptFolder:
    """Make what a killed daemon leaves of an attempt that had finished 18 blocks."""
    attempt = AttemptFolder(work / "attempts" / name)
    attempt.create()
    some_blocks(state, 18, attempt.blocks)
    origin_of(scene, povray).write(attempt.origin)
    return attempt


def whiten(state: Path) -> None:
    """Make the first block of a state file white."""
    (block, *_rest) = read_blocks(state)
    white = (b"\x3f\x80\0\0" * 3 + bytes(8)) * block.rect.area
    with state.open("r+b") as file:
        file.seek(512 + block.pixels_at)
        file.write(white)


# ---------------------------------------------------------------- the store alone


@pytest.fixture
def held(
    tmp_path: Path, head: HeadDouble, slowish: tuple[Scene, Image.Image, Path]
) -> Iterator[Held]:
    """Give an attempt of the whole picture whose folder is ready to be rendered in."""
    scene, _plain, _state = slowish
    holdings = Holdings(tmp_path / "fresh", random.Random(1))
    holdings.lease(head.lease(scene, WHOLE.as_tuple(), "b1"))
    held = holdings.next_to_render()
    assert held is not None
    held.folder.create()
    link_tree(scene.root, held.folder.scene)
    yield held
    holdings.let_go(held)
    holdings.stop()


RADIOSITY = "global_settings { assumed_gamma 1 radiosity { } }\n"
LIGHT = LightRef("radiosity", "e" * 64, 10, Grant("u", "p", "light.rca"))


def test_blocks_rendered_with_the_same_shared_light_are_gone_on_from(
    tmp_path: Path, held: Held, slowish: tuple[Scene, Image.Image, Path]
) -> None:
    scene, _plain, state = slowish
    for name, sha256 in (("a1", LIGHT.sha256), ("a2", "f" * 64)):
        light = f"radiosity={sha256}"
        attempt = left_behind(tmp_path, scene, state, name=name)
        replace(origin_of(scene), light=light).write(attempt.origin)
    main = held.folder.scene / held.spec.input
    text = main.read_text("utf-8")
    main.unlink()
    main.write_text(RADIOSITY + text, "utf-8")
    salvage = Salvage(tmp_path / "blocks", BUILD)
    assert salvage.adopt(tmp_path / "attempts") == 2
    assert salvage.begin(held) == 0, "it gathers light of its own"
    held.lease = msgspec.structs.replace(held.lease, lights=[LIGHT])
    assert salvage.begin(held) > 0
    assert len(list(read_blocks(held.folder.blocks))) == 18
    assert len(list((tmp_path / "blocks").glob("*.json"))) == 1, "of other light"
    assert salvage.finished(held) > 0


PHOTONS = LightRef("photons", "d" * 64, 10, Grant("u", "p", "light"))


def test_blocks_are_gone_on_from_only_if_all_their_light_is_loaded(
    tmp_path: Path, held: Held, slowish: tuple[Scene, Image.Image, Path]
) -> None:
    scene, _plain, state = slowish
    attempt = left_behind(tmp_path, scene, state)
    light = f"photons={PHOTONS.sha256} radiosity={LIGHT.sha256}"
    replace(origin_of(scene), light=light).write(attempt.origin)
    main = held.folder.scene / held.spec.input
    text = main.read_text("utf-8")
    main.unlink()
    main.write_text(RADIOSITY.replace("{ }", "{ } photons { spacing 1 }") + text, "utf-8")
    salvage = Salvage(tmp_path / "blocks", BUILD)
    assert salvage.adopt(tmp_path / "attempts") == 1
    for lights in ([], [LIGHT], [PHOTONS]):
        held.lease = msgspec.structs.replace(held.lease, lights=lights)
        assert salvage.begin(held) == salvage.finished(held) == 0
    held.lease = msgspec.structs.replace(held.lease, lights=[PHOTONS, LIGHT])
    assert salvage.begin(held) > 0
    assert salvage.finished(held) > 0


@pytest.mark.parametrize("stage", ["photons", "light"])
def test_a_light_pass_is_never_gone_on_with(
    tmp_path: Path, held: Held, slowish: tuple[Scene, Image.Image, Path], stage: str
) -> None:
    scene, _plain, state = slowish
    left_behind(tmp_path, scene, state)
    salvage = Salvage(tmp_path / "blocks", BUILD)
    assert salvage.adopt(tmp_path / "attempts") == 1
    held.lease = msgspec.structs.replace(held.lease, stage=stage)
    assert salvage.begin(held) == 0
    assert not held.folder.origin.exists() and not held.folder.blocks.exists()
    some_blocks(state, 18, held.folder.blocks)
    assert salvage.finished(held) == 0
    assert salvage.adopt(held.folder.root.parent) == 0, "nor after the daemon is killed"


def test_the_store_keeps_within_its_bounds(
    tmp_path: Path, slowish: tuple[Scene, Image.Image, Path]
) -> None:
    scene, _plain, state = slowish
    store, attempts = tmp_path / "blocks", tmp_path / "attempts"
    size = 0

    def salvage_at(boot_s: float, bound: int) -> Salvage:
        bounds = {"bound_bytes": bound * size, "bound_s": 3600}
        return Salvage(store, BUILD, **bounds, clock=lambda: boot_s)

    for name, boot_s in (("old", 1000), ("older", 4500), ("new", 4900)):
        attempt = left_behind(tmp_path, scene, state, name=name)
        size = attempt.blocks.stat().st_size
        # Whatever the clock on the wall says.
        os.utime(attempt.blocks, (4e9, 4e9) if name == "old" else (0, 0))
        assert salvage_at(boot_s, 3).adopt(attempts) == 1
        shutil.rmtree(attempts)
    salvage = salvage_at(5000, 3)
    salvage.trim()
    assert len(list(store.glob("*.pov-state"))) == len(list(store.glob("*.json"))) == 2
    assert salvage.expires_in_s() == 3100
    assert salvage_at(5000, 1).adopt(attempts) == 0
    (left,) = store.glob("*.pov-state")
    assert left.name.startswith("4900-")
    assert len(list(store.iterdir())) == 2
    salvage.make_room()
    assert list(store.iterdir()) == []
    assert salvage.expires_in_s() is None
    left_behind(tmp_path, scene, state, name="one more")
    assert salvage.adopt(attempts) == 1
    (store / "half moved.pov-state").touch()
    assert Salvage(store, ("3.8", "")).adopt(tmp_path / "nowhere") == 0
    assert list(store.glob("*.json")) == []


def test_an_attempt_without_blocks_or_origin_is_not_adopted(
    tmp_path: Path, slowish: tuple[Scene, Image.Image, Path]
) -> None:
    scene, _plain, state = slowish
    left_behind(tmp_path, scene, state, name="a1").origin.unlink()
    left_behind(tmp_path, scene, state, name="a2").blocks.unlink()
    left_behind(tmp_path, scene, state, name="a3").blocks.write_bytes(b"no state file" * 99)
    bare = left_behind(tmp_path, scene, state, name="a4").blocks
    bare.write_bytes(bare.read_bytes()[:9000])
    (tmp_path / "attempts" / "stray").touch()
    assert Salvage(tmp_path / "blocks", BUILD).adopt(tmp_path / "attempts") == 0
    assert list((tmp_path / "blocks").iterdir()) == []


def test_a_store_that_breaks_costs_only_its_blocks(
    tmp_path: Path, held: Held, slowish: tuple[Scene, Image.Image, Path]
) -> None:
    scene, _plain, state = slowish
    salvage = Salvage(tmp_path / "blocks", BUILD)
    left_behind(tmp_path, scene, state)
    assert salvage.adopt(tmp_path / "attempts") == 1
    (kept,) = (tmp_path / "blocks").glob("*.pov-state")
    kept.write_bytes(b"no state file" * 99)
    assert salvage.begin(held) == 0
    assert not held.folder.blocks.exists()
    assert salvage.finished(held) == 0
    shutil.rmtree(tmp_path / "blocks")
    salvage.trim()
    assert salvage.expires_in_s() is None
    assert salvage.begin(held) == 0


def test_blocks_of_several_attempts_are_put_together(
    tmp_path: Path, held: Held, slowish: tuple[Scene, Image.Image, Path]
) -> None:
    scene, _plain, state = slowish
    upper, lower = WHOLE.split_at_row(96)
    for name, rect in (("a1", upper), ("a2", lower)):
        attempt = left_behind(tmp_path, scene, state, name=name)
        keep_blocks([state], attempt.blocks, BlockGrid(rect, 32))
        origin_of(scene, rect=rect).write(attempt.origin)
    salvage = Salvage(tmp_path / "blocks", BUILD)
    assert salvage.adopt(tmp_path / "attempts") == 2
    assert salvage.begin(held) == WHOLE.area
    assert {block.serial for block in read_blocks(held.folder.blocks)} == set(range(GRID.count))
    assert list((tmp_path / "blocks").iterdir()) == []


# ---------------------------------------------------------------- a running band


def running(
    scene: Scene,
    folder: AttemptFolder,
    on_progress: Callable[[str, int, int], None],
    line: CutLine | None = None,
) -> Render:
    folder.create()
    link_tree(scene.root, folder.scene)
    return Render(
        povray=POVRAY,
        sandbox=sandbox_for(POVRAY, scene),
        threads=1,
        spec=scene.spec,
        rect=WHOLE,
        folder=folder,
        on_progress=on_progress,
        line=line,
    )


def test_a_running_band_is_cut_and_what_is_left_becomes_the_tile_at_once(
    tmp_path: Path, slowish: tuple[Scene, Image.Image, Path]
) -> None:
    scene, plain, _state = slowish
    folder = AttemptFolder(tmp_path / "a1")
    line = CutLine(WHOLE, scene.spec)

    def notice(_phase: str, done: int, _total: int) -> None:
        if done:
            line.cut(Rect(0, 0, WIDTH, 64), lambda _keep: None)

    render = running(scene, folder, notice, line)
    with pytest.raises(BlocksDone):
        render.run()
    kept = line.close()
    assert kept.y1 % 32 == 0 and 64 <= kept.y1 < HEIGHT
    grid = BlockGrid(kept, 32)
    assert keep_blocks([folder.blocks], folder.blocks, grid) == set(range(grid.count))
    folder.keep_only_blocks()
    link_tree(scene.root, folder.scene)
    second = tmp_path / "second"
    os.link(folder.blocks, second)
    Render(
        povray=POVRAY,
        sandbox=sandbox_for(POVRAY, scene),
        threads=1,
        spec=scene.spec,
        rect=kept,
        folder=folder,
        on_progress=lambda _phase, _done, _total: None,
        kept_pixels=kept.area,
    ).run()
    assert len(list(read_blocks(second))) == grid.count, "nothing is rendered twice"
    crop_tile(folder.picture, kept, folder.tile, FileFormat())
    assert same(folder.tile, plain, kept)


def test_the_blocks_of_a_running_band_are_drawn(
    tmp_path: Path, slowish: tuple[Scene, Image.Image, Path]
) -> None:
    scene, plain, _state = slowish
    folder = AttemptFolder(tmp_path / "a1")
    canvas, reader = BlockCanvas(WHOLE), StateReader(folder.blocks)
    drawn: list[Rect] = []

    def draw(_phase: str, _done: int, _total: int) -> None:
        drawn.extend(filter(None, map(canvas.draw, reader.new_blocks())))
        if drawn:
            render.cancel()

    render = running(scene, folder, draw)
    with pytest.raises(RenderCancelled):
        render.run()
    assert 0 < len(drawn) < GRID.count
    picture = Image.frombytes("RGB", (WIDTH, HEIGHT), bytes(canvas.rgb))
    for rect in drawn:
        box = rect.as_tuple()
        difference = ImageChops.difference(picture.crop(box), plain.crop(box))
        assert difference.point(lambda level: level > 1).getbbox() is None


def test_a_resumed_render_is_not_misled_by_half_a_picture(
    tmp_path: Path, slowish: tuple[Scene, Image.Image, Path]
) -> None:
    scene, plain, state = slowish
    folder = AttemptFolder(tmp_path / "a1")
    folder.create()
    link_tree(scene.root, folder.scene)
    shutil.copy(state, folder.blocks)
    folder.picture.write_bytes(b"\x89PNG and no more")
    seen: list[tuple[str, int, int]] = []
    render = Render(
        povray=POVRAY,
        sandbox=sandbox_for(POVRAY, scene),
        threads=1,
        spec=scene.spec,
        rect=WHOLE,
        folder=folder,
        on_progress=lambda *news: seen.append(news),
        kept_pixels=WHOLE.area,
    )
    render.run()
    assert ("rendering", WHOLE.area, WHOLE.area) in seen, "POV-Ray itself says nothing of them"
    assert same(folder.picture, plain)
