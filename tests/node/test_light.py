"""The light pass on a node, with real POV-Ray: what is gathered, and what is rendered with it."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from clusterray.core.blocks import BlockGrid
from clusterray.core.model import Rect
from clusterray.node.folders import AttemptFolder
from clusterray.node.light_cache import KEPT, LightCache, LightDamaged
from clusterray.node.light_pass import LightRender
from clusterray.node.renderer import Render, RenderCancelled, RenderFailed, RenderTimes
from clusterray.node.scene_cache import link_tree
from clusterray.povray.command import add_light_footer
from clusterray.povray.light_file import check_light, seat_samples
from clusterray.povray.state_file import keep_blocks, read_blocks
from clusterray.wire.protocol import Grant, LightRef
from tests.node.doubles import POVRAY, Scene, make_scene, open_field, sandbox_for

WHOLE = Rect(0, 0, 48, 96)
ROOM = """
#version 3.7;
global_settings { assumed_gamma 1 radiosity { %s count 20 error_bound 0.5 } }
camera { location <0, 1, -4> look_at <0, 1, 0> }
light_source { <3, 5, -6> rgb 0.7 }
plane { y, -1 pigment { rgb <1, 0.4, 0.3> } }
sphere { 0, 1 pigment { rgb 1 } }
"""
IN_STEPS = ROOM % "pretrace_start 0.08 pretrace_end 0.02"
AT_ONCE = ROOM % "pretrace_start 0.04 pretrace_end 0.04"
WITHOUT = ROOM.replace("radiosity { %s count 20 error_bound 0.5 }", "")


def quiet(_phase: str, _done: int, _total: int) -> None:
    """Take progress and do nothing with it."""


def ready(folder: Path, scene: Scene, name: str) -> AttemptFolder:
    attempt = AttemptFolder(folder / name)
    attempt.create()
    link_tree(scene.root, attempt.scene)
    return attempt


def gathered(
    folder: Path, scene: Scene, rect: Rect, threads: int = 1, povray: str = POVRAY
) -> Path:
    attempt = ready(folder, scene, f"light-{rect.y0}")
    LightRender(
        povray=povray,
        sandbox=sandbox_for(povray, scene),
        threads=threads,
        spec=scene.spec,
        rect=rect,
        folder=attempt,
        on_progress=quiet,
    ).run()
    assert not attempt.picture.exists()
    return attempt.made_light


def rendered(
    folder: Path, scene: Scene, rect: Rect, light: Path | None, name: str, threads: int = 1
) -> tuple[Image.Image, RenderTimes]:
    attempt = ready(folder, scene, name)
    if light is not None:
        shutil.copyfile(light, attempt.samples)
        add_light_footer(attempt.scene, scene.spec)
    times = Render(
        povray=POVRAY,
        sandbox=sandbox_for(POVRAY, scene),
        threads=threads,
        spec=scene.spec,
        rect=rect,
        folder=attempt,
        on_progress=quiet,
        lit=light is not None,
    ).run()
    with Image.open(attempt.picture) as picture:
        return picture.crop(rect.as_tuple()).convert("RGB"), times


@pytest.mark.slow
@pytest.mark.parametrize("text", [IN_STEPS, AT_ONCE])
def test_light_of_three_bands_serves_the_whole_as_it_serves_the_bands(
    tmp_path: Path, text: str
) -> None:
    scene = make_scene(tmp_path, text, width=64)
    rects = [Rect(0, top, 64, top + 32) for top in (0, 32, 64)]
    light = tmp_path / "joined.rca"
    parts = [gathered(tmp_path, scene, rect, threads=2) for rect in rects]
    light.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert check_light("radiosity", light) > 10
    whole, times = rendered(tmp_path, scene, Rect(0, 0, 64, 96), light, "whole", threads=2)
    joined, gathers = Image.new("RGB", (64, 96)), times.gathers
    for rect in rects:
        band, times = rendered(tmp_path, scene, rect, light, f"band-{rect.y0}")
        gathers += times.gathers
        joined.paste(band, rect.as_tuple())
    if gathers == 0:
        assert ImageChops.difference(whole, joined).getbbox() is None
    assert gathers < 20
    alone, own = rendered(tmp_path, scene, rects[1], None, "alone")
    assert own.gathers >= 0
    difference = ImageChops.difference(alone, joined.crop(rects[1].as_tuple()))
    assert difference.getbbox() is not None, "bands on their own would have done"


def test_samples_serve_where_they_were_taken_once_they_are_seated(tmp_path: Path) -> None:
    """On curved surfaces POV-Ray passes over many of those that it wrote itself."""
    text = IN_STEPS.replace("error_bound 0.5", "error_bound 0.2").replace(
        "sphere { 0, 1 pigment { rgb 1 } }",
        "union { sphere { 0, 1 } torus { 1.6, 0.3 rotate 70*x } pigment { rgb 1 } }",
    )
    rect = Rect(0, 0, 96, 96)
    scene = make_scene(tmp_path, text, width=96)
    light = gathered(tmp_path, scene, rect)
    with light.open("ab") as file:
        # What one band had to add is there for the next.
        file.write(added(tmp_path, scene, rect, light))
    _picture, as_written = rendered(tmp_path, scene, rect, light, "as-written")
    seat_samples(light)
    _picture, seated = rendered(tmp_path, scene, rect, light, "seated")
    assert seated.gathers < as_written.gathers / 5, (seated, as_written)


def added(folder: Path, scene: Scene, rect: Rect, light: Path) -> bytes:
    """Give the samples that a render with ``light`` adds to it."""
    attempt = ready(folder, scene, "adding")
    shutil.copyfile(light, attempt.samples)
    add_light_footer(attempt.scene, scene.spec)
    kept = light.read_bytes()

    class Adding(Render):
        def _povray_argv(self) -> list[str]:
            return [*super()._povray_argv(), "+RFO"]

    Adding(
        povray=POVRAY,
        # On a node no POV-Ray writes to the samples that it renders with.
        sandbox=open_field(),
        threads=1,
        spec=scene.spec,
        rect=rect,
        folder=attempt,
        on_progress=quiet,
        lit=True,
    ).run()
    assert attempt.samples.read_bytes().startswith(kept)
    return attempt.samples.read_bytes()[len(kept) :]


def test_a_band_goes_on_with_the_light_that_it_began_with(tmp_path: Path) -> None:
    text = IN_STEPS.replace("pigment { rgb 1 }", "pigment { rgb 1 } finish { reflection 0.2 }")
    rect = Rect(0, 0, 256, 256)
    scene = make_scene(tmp_path, text, width=256, height=256)
    light = gathered(tmp_path, scene, rect)
    plain, times = rendered(tmp_path, scene, rect, light, "plain")
    attempt = ready(tmp_path, scene, "stopped")

    def lit() -> None:
        shutil.copyfile(light, attempt.samples)
        add_light_footer(attempt.scene, scene.spec)

    def notice(_phase: str, done: int, _total: int) -> None:
        if done:
            render.cancel()

    def running(part: Rect, kept_pixels: int = 0) -> Render:
        return Render(
            povray=POVRAY,
            sandbox=sandbox_for(POVRAY, scene),
            threads=1,
            spec=scene.spec,
            rect=part,
            folder=attempt,
            on_progress=notice if part == rect else quiet,
            kept_pixels=kept_pixels,
            lit=True,
        )

    lit()
    render = running(rect)
    # However fast it is: a cancelled one that had ended can be gone on from as well.
    with contextlib.suppress(RenderCancelled):
        render.run()
    assert list(read_blocks(attempt.blocks))
    upper = Rect(0, 0, 256, 192)
    grid = BlockGrid(upper, scene.spec.block_size)
    kept = keep_blocks([attempt.blocks], attempt.blocks, grid)
    attempt.keep_only_blocks()
    link_tree(scene.root, attempt.scene)
    lit()
    gathers = running(upper, grid.area(kept)).run().gathers + times.gathers
    with Image.open(attempt.picture) as picture:
        place = (0, 0, 256, 192)
        found = ImageChops.difference(picture.convert("RGB").crop(place), plain.crop(place))
    # What a sample of its own adds in the one run and not in the other is no seam.
    most = max(found.tobytes())
    assert most == 0 or (gathers and most < 16), (most, gathers)


def counting(folder: Path) -> tuple[str, Path]:
    """Give a program that is POV-Ray and counts its starts in a file."""
    starts = folder / "starts"
    program = folder / "povray"
    program.write_text(f'#!/bin/sh\necho >> "{starts}"\nexec "{POVRAY}" "$@"\n')
    program.chmod(0o755)
    return str(program), starts


TALL = Rect(0, 0, 1000, 2000)
"""So much that POV-Ray is at work on the sky for several looks at its progress."""


def test_a_scene_that_only_mentions_radiosity_is_left_after_one_question(tmp_path: Path) -> None:
    povray, starts = counting(tmp_path)
    scene = make_scene(tmp_path, WITHOUT, width=TALL.width, height=TALL.height)
    assert gathered(tmp_path, scene, TALL, povray=povray).stat().st_size == 0
    assert len(starts.read_text()) == 2


def test_sky_above_does_not_pass_for_no_radiosity(tmp_path: Path) -> None:
    """Pretrace in one step counts as a picture does, and over sky it leaves nothing at first."""
    text = ROOM % "pretrace_start 0.0005 pretrace_end 0.0005"
    text = text.replace("look_at <0, 1, 0>", "look_at <0, 2.5, 0>")
    povray, starts = counting(tmp_path)
    scene = make_scene(tmp_path, text, width=TALL.width, height=TALL.height)
    assert check_light("radiosity", gathered(tmp_path, scene, TALL, povray=povray)) > 0
    # On a busy machine the pretrace may be over before anybody has looked: then there is no doubt.
    assert len(starts.read_text()) in (1, 3)


def test_a_fault_behind_the_footer_keeps_its_line(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, IN_STEPS + "\nsphere { oops }")
    light = tmp_path / "light.rca"
    light.touch()
    with pytest.raises(RenderFailed) as caught:
        rendered(tmp_path, scene, WHOLE, light, "bad")
    assert (caught.value.file, caught.value.line) == ("main file.pov", IN_STEPS.count("\n") + 2)


def ref(data: bytes) -> LightRef:
    return LightRef(
        "radiosity", hashlib.sha256(data).hexdigest(), len(data), Grant("u", "p", "light.rca")
    )


def test_light_is_fetched_once_and_the_oldest_goes(tmp_path: Path) -> None:
    cache = LightCache(tmp_path / "light")
    cache.open()
    fetched: list[bytes] = []

    def get(data: bytes) -> Path:
        def download(part: Path) -> None:
            fetched.append(data)
            part.write_bytes(data)

        return cache.get(ref(data), download)

    all_data = [b"%d" % number for number in range(KEPT)]
    paths = [get(data) for data in all_data]
    get(b"0")
    assert fetched == all_data
    get(b"new")
    assert [path.exists() for path in paths] == [True, False] + [True] * (KEPT - 2)
    LightCache(tmp_path / "light").open()
    assert not list((tmp_path / "light").iterdir())


def test_light_that_arrives_damaged_is_never_rendered_with(tmp_path: Path) -> None:
    cache = LightCache(tmp_path / "light")
    cache.open()

    def download(part: Path) -> None:
        part.write_bytes(b"bad")

    with pytest.raises(LightDamaged):
        cache.get(ref(b"good"), download)
    assert not list((tmp_path / "light").iterdir())
