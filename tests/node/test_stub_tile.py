"""A cut band whose blocks are all finished: its tile takes no parse, and never another picture."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from PIL import Image

from clusterray.core.model import Rect
from clusterray.node.folders import AttemptFolder
from clusterray.povray.state_file import read_blocks
from clusterray.wire.protocol import Cut, CutTo, Done
from tests.node import stand_ins
from tests.node.doubles import ANSWER_S, POVRAY, SLOW, Conversation, HeadDouble, Scene, make_scene
from tests.node.test_daemon import StartNode, finish_band, start_node
from tests.node.test_salvage import same

__all__ = ["start_node"]

WIDTH, HEIGHT = 128, 256
WHOLE = Rect(0, 0, WIDTH, HEIGHT)
SLOWISH = SLOW.replace("30, 30", "12, 12")


@pytest.fixture(scope="module")
def slowish(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Image.Image]:
    folder = tmp_path_factory.mktemp("slowish")
    return with_plain(folder, SLOWISH)


def with_plain(folder: Path, text: str) -> tuple[Scene, Image.Image]:
    scene = make_scene(folder, text, width=WIDTH, height=HEIGHT)
    with Image.open(scene.plain(folder / "plain.png")) as picture:
        picture.load()
        return scene, picture


def cut_while_it_runs(talk: Conversation, work: Path) -> CutTo:
    """Ask for a part of the band once it has begun to render; give the answer."""
    state = AttemptFolder(work / "attempts" / "a1").blocks
    give_up_at = time.monotonic() + ANSWER_S
    while not state.exists() or not list(read_blocks(state)):
        talk.link.receive(0.02)
        assert time.monotonic() < give_up_at
    talk.send(Cut("a1", (0, 0, WIDTH, 64)))
    return talk.expect(CutTo)


def cut_band(
    head: HeadDouble, start_node: StartNode, work: Path, scene: Scene, povray: str = POVRAY
) -> tuple[CutTo, Done]:
    start_node(povray=povray)
    talk = head.meet()
    talk.send(head.lease(scene, WHOLE.as_tuple()))
    answer = cut_while_it_runs(talk, work)
    kept = Rect(*answer.keep)
    assert kept != WHOLE
    return answer, finish_band(talk)


def test_the_tile_of_a_cut_band_takes_no_parse(
    head: HeadDouble,
    start_node: StartNode,
    tmp_path: Path,
    slowish: tuple[Scene, Image.Image],
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene, plain = slowish
    caplog.set_level(logging.INFO)
    answer, done = cut_band(head, start_node, tmp_path / "the work", scene)
    assert not answer.parses, "the head is told"
    assert "its tile took no parse" in caplog.text
    assert same(head.stage.folder / "a1.part", plain, Rect(*answer.keep))
    assert "stub" not in done.text, "what POV-Ray said of the scene is kept"


def test_where_the_text_does_not_tell_the_scene_is_parsed_again(
    head: HeadDouble, start_node: StartNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    text = SLOWISH.replace("assumed_gamma 1", "assumed_gamma 0.5 * 4")
    assert text != SLOWISH
    scene, plain = with_plain(tmp_path, text)
    answer, _done = cut_band(head, start_node, tmp_path / "the work", scene)
    assert answer.parses
    assert "its tile took no parse" not in caplog.text
    assert same(head.stage.folder / "a1.part", plain, Rect(*answer.keep))


FAILS = "exit 1"
KILLED = "kill -KILL $$"
BEGINS_ANEW = 'rm "{state}"; exec "{povray}" "$@"'
SPOILS_THE_BLOCKS = ': > "{state}"; exec "{povray}" "$@"'
LEAVES_NOTHING = "exit 0"


@pytest.mark.parametrize(
    "behaviour", [FAILS, KILLED, BEGINS_ANEW, SPOILS_THE_BLOCKS, LEAVES_NOTHING]
)
def test_where_the_stub_fails_the_scene_is_parsed_after_all(
    head: HeadDouble,
    start_node: StartNode,
    tmp_path: Path,
    slowish: tuple[Scene, Image.Image],
    caplog: pytest.LogCaptureFixture,
    behaviour: str,
) -> None:
    scene, plain = slowish
    does = behaviour.format(state="${out%.png}.pov-state", povray=POVRAY)
    program = stand_ins.stand_in(
        tmp_path, f'case "$*" in *stub.pov*) {does};; *) exec "{POVRAY}" "$@";; esac'
    )
    answer, _done = cut_band(head, start_node, tmp_path / "the work", scene, program)
    assert "its scene is parsed once more for its tile" in caplog.text
    assert same(head.stage.folder / "a1.part", plain, Rect(*answer.keep))


# ---------------------------------------------------------------- a band of a large picture

LARGE = (2048, 2240)
PLAIN = SLOW.replace("area_light x*4, y*4, 30, 30", "")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("large")
    return make_scene(folder, PLAIN, width=LARGE[0], height=LARGE[1])


def plain_part(scene: Scene, rect: Rect, target: Path) -> Image.Image:
    """Render a part with plain povray; give the whole picture, black elsewhere."""
    part = [f"+SC{rect.x0 + 1}", f"+EC{rect.x1}", f"+SR{rect.y0 + 1}", f"+ER{rect.y1}"]
    scene.plain(target, *part)
    with Image.open(target) as picture:
        picture.load()
        return picture


@pytest.mark.slow
@pytest.mark.parametrize("rect", [Rect(0, 1088, 2048, 1120), Rect(1024, 1088, 1100, 1120)])
def test_a_band_of_a_large_picture_costs_no_file_of_the_whole(
    head: HeadDouble,
    start_node: StartNode,
    tmp_path: Path,
    large: Scene,
    rect: Rect,
) -> None:
    program = stand_ins.stand_in(tmp_path, f'echo "$*" >> "{tmp_path}/asked"; exec "{POVRAY}" "$@"')
    start_node(povray=program)
    talk = head.meet()
    talk.send(head.lease(large, rect.as_tuple()))
    finish_band(talk)
    assert same(head.stage.folder / "a1.part", plain_part(large, rect, tmp_path / "p.png"), rect)
    asked = (tmp_path / "asked").read_text().splitlines()
    renders = [words for words in asked if "+SC" in words]
    assert [f"+W{LARGE[0]} +H{LARGE[1]}" in words for words in renders] == [True, False]
    assert f"+W{rect.width} +H{rect.height}" in renders[1] and "stub.pov" in renders[1]


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", [FAILS, BEGINS_ANEW])
def test_where_that_fails_the_file_of_the_whole_is_written_after_all(
    head: HeadDouble,
    start_node: StartNode,
    tmp_path: Path,
    large: Scene,
    caplog: pytest.LogCaptureFixture,
    behaviour: str,
) -> None:
    rect = Rect(1024, 1088, 1100, 1120)
    does = behaviour.format(state="${out%.png}.pov-state", povray=POVRAY)
    program = stand_ins.stand_in(
        tmp_path, f'case "$*" in *stub.pov*) {does};; *) exec "{POVRAY}" "$@";; esac'
    )
    start_node(povray=program)
    talk = head.meet()
    talk.send(head.lease(large, rect.as_tuple()))
    finish_band(talk)
    assert "its scene is parsed once more for its tile" in caplog.text
    assert same(head.stage.folder / "a1.part", plain_part(large, rect, tmp_path / "p.png"), rect)
