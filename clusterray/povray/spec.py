"""RenderSpec: what one job renders, as one checked, hashable value that crosses the wire.

Whoever holds a RenderSpec holds a valid one: construction checks everything, so ``from_wire`` is
the trust boundary of the head and of every node. Nothing in it can name a file outside the scene,
write a file, run a program or choose the part of the picture that a node renders. Pure: no disk,
no threads. How the values were found is options.py's business, how POV-Ray is called command.py's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from clusterray.core.errors import SceneFault
from clusterray.core.model import (
    EXTENSIONS,
    LIGHT_KINDS,
    FileFormat,
    LightKind,
    Picture,
    Rect,
)
from clusterray.povray.option_table import (
    ERROR_DIFFUSION,
    MAX_SIDE,
    BadValue,
    Policy,
    Value,
    check_path,
    check_value,
    declared_name,
    find_option,
    has_control_characters,
    rank,
    written,
)
from clusterray.povray.wire_values import (
    MAX_TEXTS,
    check_keys,
    fault,
    flag_of,
    rect_of,
    text_of,
    texts_of,
    whole_of,
)

WIRE_VERSION = 1
"""Raised when a field is added that a node must know to render right; older ones then refuse."""
DEFAULT_BLOCK_SIZE = 32
DEFAULT_QUALITY = 85
"""JPEG's: what POV-Ray takes for 0 and 1, and without a word (source/base/image/jpeg.cpp)."""
MAX_DECLARES = 100
MAX_LIBRARY_PATHS = 20
"""POV-Ray takes 25 in all, and Debian's own are three of them."""
_MAX_SOURCES = 200
_MAX_SOURCE_LENGTH = 1024
_WIRE_KEYS = {
    "v",
    "input",
    "start",
    "width",
    "height",
    "region",
    "format",
    "options",
    "sources",
    "light",
    "photon_files",
}
_FORMAT_KEYS = {"type", "bits", "grey", "alpha"}
_LIST_LIMITS = {"Declare": MAX_DECLARES, "Library_Path": MAX_LIBRARY_PATHS}


@dataclass(frozen=True, slots=True)
class RenderSpec:
    """Everything that decides a job's pixels, but for the scene's files.

    ``input`` is the POSIX path of the main .pov file and ``start`` the folder POV-Ray runs in
    ("." is the root), both relative to the scene's root. ``region`` is what is wanted of the
    picture, None all of it. ``file_type`` is POV-Ray's letter, ``bits`` are those asked for each
    channel; what a type can be is ``effective_format``'s.
    ``options`` are the other options as pairs in canonical order; paths in them are relative to
    the root. ``light``: what the scene may use that its bands must share, made in passes before
    them; ``photon_files`` have the photons blocks to extend for that, relative to the root.
    ``sources`` says where each value came from, by the names of ``settings()``; it is
    no part of the value. Raises SceneFault for anything a job may not have.
    """

    input: str
    width: int
    height: int
    start: str = "."
    region: Rect | None = None
    file_type: str = "N"
    bits: int = 8
    grey: bool = False
    alpha: bool = False
    options: tuple[tuple[str, Value], ...] = ()
    light: tuple[LightKind, ...] = ()
    photon_files: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        _check_place("the scene file", self.input)
        if PurePosixPath(self.input).suffix.lower() != ".pov":
            raise fault(f"the scene file must be a .pov file, not {self.input!r}")
        _check_place("the start folder", self.start)
        _check_side("Width", self.width)
        _check_side("Height", self.height)
        if self.region is not None:
            self._check_region(self.region)
        self._check_format()
        self._check_light()
        _check_options(self.options)
        self._check_dither()
        _check_sources(self.sources)

    # ------------------------------------------------------------ what others ask

    @property
    def extension(self) -> str:
        """The finished picture's file name extension, without the dot."""
        return self.file_format.extension

    @property
    def file_format(self) -> FileFormat:
        """What sort of file the finished picture is."""
        return FileFormat(
            self.file_type,
            self.bits,
            self.grey,
            self.alpha,
            self._quality(),
        )

    def _quality(self) -> int:
        asked = int(self.value("Compression") or 0)
        return DEFAULT_QUALITY if asked < 2 else min(100, asked)

    @property
    def antialias(self) -> bool:
        """Whether antialiasing is on."""
        return self.value("Antialias") is True

    @property
    def sampling_method(self) -> int:
        """POV-Ray's antialiasing method, 1 or 2; 3.7 takes 3 for 2."""
        method = self.value("Sampling_Method")
        return 1 if method is None else min(2, int(method))

    @property
    def block_size(self) -> int:
        """Side in pixels of the blocks that POV-Ray renders in."""
        size = self.value("Render_Block_Size")
        return DEFAULT_BLOCK_SIZE if size is None else int(size)

    @property
    def library_paths(self) -> tuple[str, ...]:
        """The job's own library folders, relative to the root, in POV-Ray's order of looking."""
        return tuple(str(value) for name, value in self.options if name == "Library_Path")

    def value(self, name: str) -> Value | None:
        """Give the (first) value of an option by its INI name, None if the job does not set it."""
        for key, value in self.options:
            if key == name:
                return value
        return None

    def picture(self) -> Picture:
        """Give the geometry that the farm needs to cut bands.

        The blocks matter only to antialiasing method 1: its blocks look at pixels of their left
        and upper neighbours (POV-Ray, source/backend/render/tracetask.cpp). Dithering by error
        diffusion makes one block of the whole picture.
        """
        block = self.block_size if self.antialias and self.sampling_method == 1 else None
        if self.value("Dither") is True and self.value("Dither_Method") in ERROR_DIFFUSION:
            block = max(self.width, self.height)
        return Picture(
            self.width,
            self.height,
            self.region or Rect(0, 0, self.width, self.height),
            block,
        )

    def settings(self) -> list[tuple[str, str, str]]:
        """Give each value for a person: its name, itself, and the source that won it."""
        rows: list[tuple[str, str]] = [
            ("Input_File_Name", self.input),
            ("Start_Folder", self.start),
            ("Width", str(self.width)),
            ("Height", str(self.height)),
        ]
        if self.region is not None:
            rows.append(("Region", ",".join(map(str, self.region.as_tuple()))))
        rows += [
            ("Output_File_Type", self.file_type),
            ("Bits_Per_Color", str(self.bits)),
            ("Grayscale_Output", written(self.grey)),
            ("Output_Alpha", written(self.alpha)),
        ]
        rows += [
            (name, _shown(option, value))
            for name, (option, value) in zip(setting_names(self.options), self.options, strict=True)
        ]
        return [(name, shown, self.sources.get(name, "")) for name, shown in rows]

    # ------------------------------------------------------------ wire

    def to_wire(self) -> dict[str, object]:
        """Give the JSON form; ``from_wire`` of it equals this spec."""
        return {**self._hashed(), "sources": dict(self.sources)}

    def digest(self) -> str:
        """Give the hex SHA-256 that names this spec; the sources are no part of it."""
        text = json.dumps(self._hashed(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _hashed(self) -> dict[str, object]:
        return {
            "v": WIRE_VERSION,
            "input": self.input,
            "start": self.start,
            "width": self.width,
            "height": self.height,
            "region": None if self.region is None else list(self.region.as_tuple()),
            "format": {
                "type": self.file_type,
                "bits": self.bits,
                "grey": self.grey,
                "alpha": self.alpha,
            },
            "options": [[name, value] for name, value in self.options],
            # Only where there is some: whoever does not know the keys refuses such a job.
            **({"light": list(self.light)} if self.light else {}),
            **({"photon_files": list(self.photon_files)} if self.photon_files else {}),
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, object]) -> RenderSpec:
        """Make a spec of what a peer sent, trusting nothing in it; raises SceneFault."""
        if not isinstance(wire, Mapping):
            raise fault("it must be an object")
        if wire.get("v") != WIRE_VERSION:
            raise fault(f"version {wire.get('v')!r} is not {WIRE_VERSION}; update the older side")
        check_keys("it", wire, _WIRE_KEYS, optional={"sources", "light", "photon_files"})
        picture_format = wire["format"]
        if not isinstance(picture_format, Mapping):
            raise fault("format must be an object")
        check_keys("format", picture_format, _FORMAT_KEYS)
        sources = wire.get("sources", {})
        if not isinstance(sources, Mapping):
            raise fault("sources must be an object")
        return cls(
            input=text_of("input", wire["input"]),
            start=text_of("start", wire["start"]),
            width=whole_of("width", wire["width"]),
            height=whole_of("height", wire["height"]),
            region=rect_of(wire["region"]),
            file_type=text_of("format type", picture_format["type"]),
            bits=whole_of("format bits", picture_format["bits"]),
            grey=flag_of("format grey", picture_format["grey"]),
            alpha=flag_of("format alpha", picture_format["alpha"]),
            options=_pairs(wire["options"]),
            light=_kinds(texts_of("light", wire.get("light", ()))),
            photon_files=texts_of("photon_files", wire.get("photon_files", ())),
            sources=dict(sources),
        )

    # ------------------------------------------------------------ checks of the whole

    def _check_region(self, region: Rect) -> None:
        if not Rect(0, 0, self.width, self.height).contains(region):
            raise SceneFault(
                f"the region {','.join(map(str, region.as_tuple()))} does not lie inside the "
                f"picture of {self.width}x{self.height} pixels"
            )

    def _check_light(self) -> None:
        _kinds(self.light)
        if bool(self.photon_files) is not ("photons" in self.light):
            raise fault("photon_files must be given for photons, and for nothing else")
        if len(self.photon_files) > MAX_TEXTS:
            raise fault(f"photon_files must be at most {MAX_TEXTS}")
        for path in self.photon_files:
            _check_place("a file with photons", path)

    def _check_format(self) -> None:
        for name, flag in (("grey", self.grey), ("alpha", self.alpha)):
            if not isinstance(flag, bool):
                raise fault(f"format {name} must be true or false")
        wanted = (self.bits, self.grey, self.alpha)
        if self.file_type not in EXTENSIONS:
            raise fault(f"there is no file type {self.file_type!r:.20}")
        if effective_format(self.file_type, *wanted) != wanted:
            raise fault(
                f"the file type {self.file_type} does not come with {self.bits} bits"
                f"{' in grey' if self.grey else ''}{' and alpha' if self.alpha else ''}"
            )

    def _check_dither(self) -> None:
        # The method decides whether bands can be made, so it is never left to POV-Ray.
        if self.value("Dither") is True and self.value("Dither_Method") is None:
            raise fault("Dither needs a Dither_Method")


def effective_format(letter: str, bits: int, grey: bool, alpha: bool) -> tuple[int, bool, bool]:
    """Give the bits, grey and alpha that POV-Ray 3.7 makes of those asked for.

    Grey is for PNG, always with 16 bits, and for PPM, whose files of 8 bits and fewer are damaged
    (two bytes a value under a header that says one), so that 16 are taken. All but PNG and PPM
    have a depth of their own. Alpha stays what was asked for even where a file has none, since it
    changes what is brighter than white. Seen with Debian's; its table of file types is in
    source/frontend/processrenderoptions.cpp.
    """
    clipped = max(5, min(16, bits))
    match letter:
        case "N":
            return (16 if grey else clipped), grey, alpha
        case "P":
            return (16 if grey and clipped <= 8 else clipped), grey, alpha
        case "E":
            return 16, False, alpha
    return 8, False, alpha


def setting_names(options: Sequence[tuple[str, Value]]) -> list[str]:
    """Give the names under which the values are listed, unique also where an option repeats."""
    names: list[str] = []
    paths = 0
    for name, value in options:
        if name == "Declare":
            names.append(f"Declare {declared_name(str(value))}")
        elif name == "Library_Path":
            paths += 1
            names.append(f"Library_Path {paths}")
        else:
            names.append(name)
    return names


def canonical_options(pairs: list[tuple[str, Value]]) -> tuple[tuple[str, Value], ...]:
    """Sort pairs into the canonical order; the order of a repeated option's values is kept."""
    return tuple(sorted(pairs, key=lambda pair: rank(pair[0])))


def _shown(name: str, value: Value) -> str:
    if name == "Declare":
        return str(value).partition("=")[2]
    return written(value)


def _check_place(what: str, path: str) -> None:
    try:
        check_path(path)
    except BadValue as error:
        raise fault(f"{what} {error}") from None


def _check_side(name: str, side: int) -> None:
    if isinstance(side, bool) or not isinstance(side, int):
        raise fault(f"{name} must be a whole number")
    if not 1 <= side <= MAX_SIDE:
        raise SceneFault(f"{name} must lie between 1 and {MAX_SIDE}, not be {side}")


def _check_options(options: tuple[tuple[str, Value], ...]) -> None:
    counts: dict[str, int] = {}
    last_rank = -1
    for name, value in options:
        option = find_option(name)
        if option is None or option.name != name or option.policy is not Policy.PICTURE:
            raise fault(f"{name!r:.80} is not an option that a job can have")
        try:
            canonical = check_value(option, value)
        except BadValue as error:
            raise fault(f"{name} {error}") from None
        if type(canonical) is not type(value) or canonical != value:
            raise fault(f"{name} must be in canonical form")
        if rank(name) < last_rank:
            raise fault("the options must be in canonical order")
        last_rank = rank(name)
        counts[name] = counts.get(name, 0) + 1
        limit = _LIST_LIMITS.get(name, 1)
        if counts[name] > limit:
            times = "once" if limit == 1 else f"{limit} times"
            raise SceneFault(f"{name} may be given at most {times}")
    names = setting_names(options)
    if len(set(names)) < len(names):
        raise fault("an identifier is declared twice")


def _check_sources(sources: Mapping[str, str]) -> None:
    if len(sources) > _MAX_SOURCES:
        raise fault("there are too many sources")
    for name, source in sources.items():
        for text in (name, source):
            if not isinstance(text, str) or len(text) > _MAX_SOURCE_LENGTH:
                raise fault("sources must map short texts to short texts")
            if has_control_characters(text):
                raise fault("sources must not hold control characters")


def _kinds(names: tuple[str, ...]) -> tuple[LightKind, ...]:
    kinds = tuple(kind for kind in LIGHT_KINDS if kind in names)
    if kinds != names:
        raise fault(f"light must be some of {', '.join(LIGHT_KINDS)}, in this order")
    return kinds


def _pairs(value: object) -> tuple[tuple[str, Value], ...]:
    if not isinstance(value, list | tuple) or len(value) > 1000:
        raise fault("options must be a list of pairs")
    pairs: list[tuple[str, Value]] = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise fault("options must be a list of pairs")
        name, option_value = pair
        option = find_option(name) if isinstance(name, str) else None
        if option is None:
            raise fault(f"{name!r:.80} is not an option that a job can have")
        try:
            # JSON writes 2.0 as 2 in some libraries, so numbers are made canonical here.
            pairs.append((name, check_value(option, option_value)))
        except BadValue as error:
            raise fault(f"{name} {error}") from None
    return tuple(pairs)
