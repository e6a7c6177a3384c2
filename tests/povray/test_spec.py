from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterray.core.errors import SceneFault
from clusterray.core.model import EXTENSIONS, Picture, Rect
from clusterray.povray.option_table import MAX_SIDE, OPTIONS, Kind, Option, Policy, Value
from clusterray.povray.spec import (
    RenderSpec,
    canonical_options,
    effective_format,
    setting_names,
)

ALLOWED = [option for option in OPTIONS if option.policy is Policy.PICTURE]
SINGLE = [option for option in ALLOWED if not option.repeats]


def plain(**changes: Any) -> RenderSpec:
    return RenderSpec(**{"input": "room.pov", "width": 64, "height": 48, **changes})


# -------------------------------------------------------------------- round trip

names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=12
).filter(lambda name: name not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
ascii_names = st.text("abc XYZ019._-+=[];#'", min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
ascii_paths = st.lists(ascii_names, min_size=1, max_size=3).map("/".join)
identifiers = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)


def values(option: Option) -> st.SearchStrategy[Value]:
    if option.kind is Kind.BOOL:
        return st.booleans()
    if option.kind is Kind.INT:
        return st.integers(int(option.low), int(option.high))
    if option.kind is Kind.FLOAT:
        return st.floats(option.low, option.high)
    if option.kind is Kind.GAMMA:
        return st.just("sRGB") | st.floats(option.low, option.high)
    if option.kind is Kind.CHOICE:
        return st.sampled_from(option.choices)
    return ascii_paths


@st.composite
def specs(draw: st.DrawFn) -> RenderSpec:
    width, height = draw(st.integers(1, MAX_SIDE)), draw(st.integers(1, MAX_SIDE))
    pairs: list[tuple[str, Value]] = []
    for option in draw(st.lists(st.sampled_from(SINGLE), unique=True)):
        pairs.append((option.name, draw(values(option))))
    if dict(pairs).get("Dither") is True and "Dither_Method" not in dict(pairs):
        pairs.append(("Dither_Method", "B4"))
    for name in draw(st.lists(identifiers, unique=True, max_size=4)):
        number = draw(st.integers(-1000, 1000))
        pairs.append(("Declare", f"{name}={number}"))
    pairs += [("Library_Path", path) for path in draw(st.lists(ascii_paths, max_size=3))]
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    region = Rect(x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))
    file_type = draw(st.sampled_from(sorted(EXTENSIONS)))
    wanted = draw(st.integers(1, 20)), draw(st.booleans()), draw(st.booleans())
    bits, grey, alpha = effective_format(file_type, *wanted)
    options = canonical_options(pairs)
    return RenderSpec(
        input=draw(paths) + draw(st.sampled_from([".pov", ".POV"])),
        start=draw(st.just(".") | paths),
        width=width,
        height=height,
        region=draw(st.none() | st.just(region)),
        file_type=file_type,
        bits=bits,
        grey=grey,
        alpha=alpha,
        options=options,
        sources=dict.fromkeys(setting_names(options), "somewhere"),
    )


@given(specs())
def test_a_spec_survives_the_wire(spec: RenderSpec) -> None:
    back = RenderSpec.from_wire(json.loads(json.dumps(spec.to_wire())))
    assert back == spec
    assert back.digest() == spec.digest()
    assert back.settings() == spec.settings()
    # The head's JobDetail takes no more than 200 settings with names of at most 255 letters.
    assert len(back.settings()) <= 200
    assert all(len(name) <= 255 for name, _value, _source in back.settings())


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
), st.sampled_from(sorted(RenderSpec("a.pov", 1, 1).to_wire())))  # fmt: skip
def test_no_nonsense_in_any_field_gets_past_or_crashes(nonsense: Any, key: str) -> None:
    wire = {**plain().to_wire(), key: nonsense}
    try:
        spec = RenderSpec.from_wire(wire)
    except SceneFault:
        return
    assert RenderSpec.from_wire(spec.to_wire()) == spec


# -------------------------------------------------------------------- the trust boundary


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/x.pov", "../x.pov", "a/../../x.pov", "a/../x.pov", "./x.pov", "a//x.pov"),
        *("x.pov/", "", ".", "a\0.pov", "a\n.pov", "\x9b31m.pov", "x.ini", "x"),
        *("\ud800.pov", "a" * 2000 + ".pov"),
    ],
)
def test_an_input_cannot_leave_the_scene(path: str) -> None:
    with pytest.raises(SceneFault):
        RenderSpec.from_wire({**plain().to_wire(), "input": path})


@pytest.mark.parametrize("start", ["/", "..", "a/..", "./a", "a/", ""])
def test_a_start_folder_cannot_leave_the_scene(start: str) -> None:
    with pytest.raises(SceneFault):
        RenderSpec.from_wire({**plain().to_wire(), "start": start})


@pytest.mark.parametrize(
    "path", ["/etc", "../x", "a/../..", "", "é", 'a"b', "/usr/share/povray-3.7"]
)
@pytest.mark.parametrize("name", ["Library_Path", "Include_Header"])
def test_paths_among_the_options_stay_inside(name: str, path: str) -> None:
    with pytest.raises(SceneFault, match=name):
        RenderSpec.from_wire({**plain().to_wire(), "options": [[name, path]]})


def test_no_other_option_gets_in() -> None:
    others = [option for option in OPTIONS if option.policy is not Policy.PICTURE]
    for option in others:
        for value in (True, 1, 0.5, "x"):
            with pytest.raises(SceneFault):
                RenderSpec.from_wire({**plain().to_wire(), "options": [[option.name, value]]})


@pytest.mark.parametrize(
    "options",
    [
        [["quality", 5]],
        [["Quality", 5], ["Quality", 5]],
        [["Quality", True]],
        [["Quality", "5"]],
        [["Quality", 5.0]],
        [["Quality", 99]],
        [["Antialias", 1]],
        [["Antialias_Threshold", math.nan]],
        [["Antialias_Threshold", math.inf]],
        [["Antialias_Threshold", 10**400]],
        [["Quality", 5], ["Antialias", True]],
        [["Declare", "x=1"], ["Declare", "x=2"]],
        [["Declare", "x=1.0"]],
        [["Declare", "x=1 +C"]],
        [["Declare", 'x="a\' b"']],
        [["Declare", 'x="a"b"']],
        [["Dither", True]],
        [["Dither_Method", "XY"]],
        [["File_Gamma", "bt709"]],
        [["Nonsense", 1]],
        [["Quality"]],
        [[1, 2]],
        ["Quality"],
        {"Quality": 5},
        [["Library_Path", f"p{n}"] for n in range(21)],
        [["Declare", f"x{n}=1"] for n in range(101)],
    ],
)
def test_bad_options_are_refused(options: object) -> None:
    with pytest.raises(SceneFault):
        RenderSpec.from_wire({**plain().to_wire(), "options": options})


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0},
        {"width": MAX_SIDE + 1},
        {"width": True},
        {"width": 1.5},
        {"region": [0, 0, 65, 48]},
        {"region": [5, 0, 5, 48]},
        {"region": [-1, 0, 5, 48]},
        {"region": [0, 0, 1]},
        {"v": 2},
        {"surprise": 1},
        {"sources": {"Width": 5}},
        {"sources": {"Width": "\x1b[31m"}},
        {"sources": {str(n): "x" for n in range(201)}},
        {"format": {"type": "S", "bits": 8, "grey": False, "alpha": False}},
        {"format": {"type": "N", "bits": 17, "grey": False, "alpha": False}},
        {"format": {"type": "N", "bits": 4, "grey": False, "alpha": False}},
        {"format": {"type": "T", "bits": 16, "grey": False, "alpha": False}},
        {"format": {"type": "E", "bits": 16, "grey": True, "alpha": False}},
        {"format": {"type": "P", "bits": 8, "grey": True, "alpha": False}},
        {"format": {"type": "N", "bits": 8, "grey": True, "alpha": False}},
        {"format": {"type": "N", "bits": 8, "grey": 0, "alpha": False}},
        {"format": {"type": "N", "bits": 8}},
        {"format": None},
        {"options": None},
        {"sources": []},
    ],
)
def test_bad_fields_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SceneFault):
        RenderSpec.from_wire({**plain().to_wire(), **changes})


@pytest.mark.parametrize("key", sorted(set(plain().to_wire()) - {"sources"}))
def test_missing_fields_are_refused(key: str) -> None:
    wire = plain().to_wire()
    del wire[key]
    with pytest.raises(SceneFault):
        RenderSpec.from_wire(wire)


# -------------------------------------------------------------------- what it says


def test_the_digest_knows_every_value_but_no_source() -> None:
    spec = plain()
    assert spec.digest() == plain(sources={"Width": "--width"}).digest()
    changed: list[dict[str, Any]] = [
        {"input": "other.pov"},
        {"start": "sub"},
        {"width": 65},
        {"height": 49},
        {"region": Rect(0, 0, 1, 1)},
        {"alpha": True},
        {"grey": True, "bits": 16},
        {"options": (("Quality", 5),)},
    ]
    digests = {plain(**change).digest() for change in changed}
    assert len(digests) == len(changed)
    assert spec.digest() not in digests


@pytest.mark.parametrize(
    ("options", "block"),
    [
        ((), None),
        ((("Antialias_Threshold", 0.3),), None),
        ((("Antialias", False),), None),
        ((("Antialias", True),), 32),
        ((("Antialias", True), ("Render_Block_Size", 16)), 16),
        ((("Antialias", True), ("Sampling_Method", 1)), 32),
        ((("Antialias", True), ("Sampling_Method", 2)), None),
        ((("Antialias", True), ("Sampling_Method", 3)), None),
    ],
)
def test_only_method_1_ties_the_cuts_to_blocks(
    options: tuple[tuple[str, Value], ...], block: int | None
) -> None:
    assert plain(options=options).picture() == Picture(64, 48, Rect(0, 0, 64, 48), block)


def test_the_picture_has_the_region() -> None:
    region = Rect(3, 5, 60, 40)
    assert plain(region=region).picture().region == region


def test_the_extension_is_the_formats() -> None:
    assert plain().extension == "png"


# -------------------------------------------------------------------- light


def lit(**fields: object) -> dict[str, object]:
    return {**RenderSpec(input="a.pov", width=8, height=8).to_wire(), **fields}


def test_light_crosses_the_wire_and_counts() -> None:
    both = RenderSpec(
        input="a.pov",
        width=8,
        height=8,
        light=("photons", "radiosity"),
        photon_files=("a.pov", "inc/b.inc"),
    )
    assert RenderSpec.from_wire(json.loads(json.dumps(both.to_wire()))) == both
    assert both.digest() != RenderSpec.from_wire(lit()).digest()
    # An older head or node refuses keys that it does not know; they are not there without need.
    assert not {"light", "photon_files"} & set(lit())


@pytest.mark.parametrize(
    "fields",
    [
        {"light": True},
        {"light": ["moonshine"]},
        {"light": ["radiosity", "photons"], "photon_files": ["a.pov"]},
        {"light": ["photons"]},
        {"light": ["radiosity"], "photon_files": ["a.pov"]},
        {"light": ["photons"], "photon_files": ["../a.pov"]},
        {"light": ["photons"], "photon_files": ["/etc/passwd"]},
        {"light": ["photons"], "photon_files": [7]},
        {"light": ["photons"], "photon_files": ["a.pov"] * 101},
    ],
)
def test_light_that_no_client_of_ours_sends_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(SceneFault, match="settings are not valid"):
        RenderSpec.from_wire(lit(**fields))
