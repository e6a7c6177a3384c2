"""Every option of POV-Ray 3.7 as one table: names, kind of value, what the farm does with it.

The table drives the readers of INI text and switches, the check of a RenderSpec that came over the
wire, and the list in docs/job.md. Pure: no disk, no threads. Source of names and switches: POV-Ray
v3.7.0.10, source/frontend/processrenderoptions.cpp; tried against Debian's povray.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

Value: TypeAlias = bool | int | float | str
"""A canonical value: what crosses the wire and is hashed."""

MAX_SIDE = 1_000_000
"""Pixels: the largest width or height a job may have."""
MAX_PATH_BYTES = 1024
BAYER = ("B2", "B3", "B4")
"""Dither methods that look at a pixel's place alone."""
ERROR_DIFFUSION = ("FS", "D1", "D2")
"""Dither methods that hand a pixel's rounding on to the next ones, from the picture's top to its
end (POV-Ray, source/base/image/encoding.cpp)."""
DEFAULT_DITHER = "FS"
"""What POV-Ray dithers with unless told how."""
DEBIAN_LIBRARY_PATHS = (
    "/usr/share/povray-3.7",
    "/usr/share/povray-3.7/ini",
    "/usr/share/povray-3.7/include",
)
"""Where Debian's own povray.ini looks for includes; every node adds them, no job names them."""
DEBIAN_DEFAULTS = (
    ("Width", "800"),
    ("Height", "600"),
    ("Bounding_Threshold", "3"),
    ("Output_File_Type", "N8"),
)
"""What Debian's /etc/povray/3.7/povray.ini sets that can change a pixel."""


class Kind(Enum):
    """What sort of value an option takes."""

    BOOL = "on or off"
    INT = "whole number"
    FLOAT = "number"
    GAMMA = "sRGB or a number"
    CHOICE = "one of a few words"
    PATH = "path"
    DECLARE = "name=number"
    TEXT = "text"


class Policy(Enum):
    """What the farm does with an option; the words are those of docs/job.md."""

    PICTURE = "passed on"
    SIZE = "the picture's size"
    INPUT = "what is rendered"
    OUTPUT = "taken over: names the finished picture"
    FORMAT = "the kind of file"
    ANIMATION = "stills only for now"
    NODE = "refused, from an INI taken over: the node decides"
    QUIET = "ignored: changes no pixel"
    INCLUDE = "reads another INI"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Option:
    """One option under its INI name.

    ``low`` and ``high`` bound numbers, both inclusive; ``choices`` are the words of a CHOICE in
    canonical spelling; ``repeats`` marks lists (Declare, Library_Path). ``why`` ends the sentence
    of a refusal and says the way out. A REFUSED option that is switched off or empty is harmless
    and passed over.
    """

    name: str
    kind: Kind
    policy: Policy
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    repeats: bool = False
    why: str = ""


_CUT = "the farm cuts the picture itself; for a part of it give --region X0,Y0,X1,Y1"
_RUNS = "a farm runs no programs for a scene; leave it out"
_WRITES = "a node writes nothing but the picture; leave it out"
_LATER_RADIOSITY = "radiosity files come in a later version; leave it out"


def _bools(policy: Policy, *names: str, why: str = "") -> list[Option]:
    return [Option(name, Kind.BOOL, policy, why=why) for name in names]


def _ints(policy: Policy, *names: str, why: str = "") -> list[Option]:
    return [Option(name, Kind.INT, policy, why=why) for name in names]


def _floats(policy: Policy, *names: str, why: str = "") -> list[Option]:
    return [Option(name, Kind.FLOAT, policy, why=why) for name in names]


def _texts(policy: Policy, *names: str, why: str = "") -> list[Option]:
    return [Option(name, Kind.TEXT, policy, why=why) for name in names]


OPTIONS: tuple[Option, ...] = (
    Option("Width", Kind.INT, Policy.SIZE, 1, MAX_SIDE),
    Option("Height", Kind.INT, Policy.SIZE, 1, MAX_SIDE),
    Option("Input_File_Name", Kind.TEXT, Policy.INPUT),
    Option("Output_File_Name", Kind.TEXT, Policy.OUTPUT),
    Option("Output_File_Type", Kind.TEXT, Policy.FORMAT),
    Option("Output_To_File", Kind.BOOL, Policy.FORMAT),
    Option("Bits_Per_Color", Kind.INT, Policy.FORMAT),
    Option("Bits_Per_Colour", Kind.INT, Policy.FORMAT),
    Option("Grayscale_Output", Kind.BOOL, Policy.FORMAT),
    Option("Output_Alpha", Kind.BOOL, Policy.FORMAT),
    # ---- antialiasing
    Option("Antialias", Kind.BOOL, Policy.PICTURE),
    Option("Antialias_Threshold", Kind.FLOAT, Policy.PICTURE, 0, 1000),
    Option("Antialias_Depth", Kind.INT, Policy.PICTURE, 0, 20),
    Option("Antialias_Gamma", Kind.FLOAT, Policy.PICTURE, 0.01, 100),
    Option("Sampling_Method", Kind.INT, Policy.PICTURE, 1, 3),
    Option("Jitter", Kind.BOOL, Policy.PICTURE),
    Option("Jitter_Amount", Kind.FLOAT, Policy.PICTURE, 0, 1000),
    # POV-Ray itself refuses blocks below 4.
    Option("Render_Block_Size", Kind.INT, Policy.PICTURE, 4, MAX_SIDE),
    # ---- tracing
    Option("Quality", Kind.INT, Policy.PICTURE, 0, 11),
    Option("Bounding", Kind.BOOL, Policy.PICTURE),
    Option("Bounding_Method", Kind.INT, Policy.PICTURE, 1, 2),
    Option("Bounding_Threshold", Kind.INT, Policy.PICTURE, 0, 1_000_000_000),
    Option("BSP_MaxDepth", Kind.INT, Policy.PICTURE, 1, 10_000),
    Option("BSP_BaseAccessCost", Kind.FLOAT, Policy.PICTURE, 0, 1e9),
    Option("BSP_ChildAccessCost", Kind.FLOAT, Policy.PICTURE, 0, 1e9),
    Option("BSP_ISectCost", Kind.FLOAT, Policy.PICTURE, 0, 1e9),
    Option("BSP_MissChance", Kind.FLOAT, Policy.PICTURE, 0, 1e9),
    *_bools(Policy.PICTURE, "Remove_Bounds", "Split_Unions"),
    *_bools(Policy.PICTURE, "High_Reproducibility", "Radiosity_Vain_Pretrace"),
    # ---- parsing
    Option("Version", Kind.FLOAT, Policy.PICTURE, 1, 4),
    Option("Clock", Kind.FLOAT, Policy.PICTURE, -1e30, 1e30),
    Option("Declare", Kind.DECLARE, Policy.PICTURE, repeats=True),
    Option("Include_Header", Kind.PATH, Policy.PICTURE),
    Option("Library_Path", Kind.PATH, Policy.PICTURE, repeats=True),
    # ---- the file's pixels
    Option("File_Gamma", Kind.GAMMA, Policy.PICTURE, 0.01, 100),
    Option("Dither", Kind.BOOL, Policy.PICTURE),
    Option("Dither_Method", Kind.CHOICE, Policy.PICTURE, choices=(*BAYER, *ERROR_DIFFUSION)),
    # POV-Ray clips it to this range; JPEG takes 0 and 1 for 85, and all above 100 for 100.
    Option("Compression", Kind.INT, Policy.PICTURE, 0, 255, why="JPEG's quality"),
    # ---- animation
    *_ints(Policy.ANIMATION, "Initial_Frame", "Final_Frame"),
    *_floats(Policy.ANIMATION, "Initial_Clock", "Final_Clock"),
    *_floats(Policy.ANIMATION, "Subset_Start_Frame", "Subset_End_Frame"),
    *_ints(Policy.QUIET, "Frame_Step"),
    *_bools(Policy.QUIET, "Cyclic_Animation", "Clockless_Animation", "Field_Render", "Odd_Field"),
    # ---- not a scene's business
    Option(
        "Work_Threads",
        Kind.INT,
        Policy.NODE,
        why="each node decides how many threads it uses; leave it out",
    ),
    Option("Include_Ini", Kind.TEXT, Policy.INCLUDE),
    *_floats(Policy.REFUSED, "Start_Row", "End_Row", "Start_Column", "End_Column", why=_CUT),
    *_bools(
        Policy.REFUSED,
        "Continue_Trace",
        why="the farm keeps finished work by itself; leave it out",
    ),
    *_bools(
        Policy.REFUSED,
        "Real_Time_Raytracing",
        why="a farm renders single pictures; leave it out",
    ),
    *_texts(
        Policy.REFUSED,
        *("Pre_Scene_Command", "Post_Scene_Command", "Pre_Frame_Command", "Post_Frame_Command"),
        *("User_Abort_Command", "Fatal_Error_Command"),
        why=_RUNS,
    ),
    *_texts(
        Policy.REFUSED,
        *("Create_Ini", "All_File", "Debug_File", "Fatal_File", "Render_File"),
        *("Statistic_File", "Warning_File"),
        why=_WRITES,
    ),
    *_bools(Policy.REFUSED, "Radiosity_From_File", "Radiosity_To_File", why=_LATER_RADIOSITY),
    *_texts(Policy.REFUSED, "Radiosity_File_Name", why=_LATER_RADIOSITY),
    # ---- no pixel depends on these
    *_texts(
        Policy.QUIET,
        *("Pre_Scene_Return", "Post_Scene_Return", "Pre_Frame_Return", "Post_Frame_Return"),
        *("User_Abort_Return", "Fatal_Error_Return"),
        *("Display", "Video_Mode", "Palette", "Display_Gamma", "Pause_When_Done", "Verbose"),
        *("Test_Abort", "Test_Abort_Count", "Warning_Level", "Append_File"),
        *("All_Console", "Debug_Console", "Fatal_Console", "Render_Console"),
        *("Statistic_Console", "Warning_Console", "Max_Image_Buffer_Memory"),
        *("Preview_Start_Size", "Preview_End_Size", "Render_Pattern", "Render_Block_Step"),
        *("Light_Buffer", "Vista_Buffer", "Draw_Vistas", "Buffer_Output", "Buffer_Size"),
        *("Create_Histogram", "Histogram_Name", "Histogram_Grid_Size", "Histogram_Type"),
    ),
)

_BY_NAME = {option.name.lower(): option for option in OPTIONS}
_RANK = {option.name: rank for rank, option in enumerate(OPTIONS)}


class Parameter(Enum):
    """Whether something must, may or must not follow a switch's letters."""

    NONE = 0
    MAY = 1
    MUST = 2


@dataclass(frozen=True, slots=True)
class Switch:
    """One ``+X`` switch: the on-off option it sets by its sign and the option its rest sets."""

    letters: str
    flag: str = ""
    value: str = ""

    @property
    def parameter(self) -> Parameter:
        """Whether something follows the letters."""
        if not self.value:
            return Parameter.NONE
        return Parameter.MAY if self.flag else Parameter.MUST


SWITCHES: tuple[Switch, ...] = (
    Switch("AG", value="Antialias_Gamma"),
    Switch("AM", value="Sampling_Method"),
    Switch("A", "Antialias", "Antialias_Threshold"),
    Switch("BM", value="Bounding_Method"),
    Switch("BS", value="Render_Block_Size"),
    Switch("B", "Bounding"),
    Switch("C", "Continue_Trace"),
    Switch("D", "Display", "Video_Mode"),
    Switch("EC", value="End_Column"),
    Switch("EF", value="Subset_End_Frame"),
    Switch("EP", value="Preview_End_Size"),
    Switch("ER", value="End_Row"),
    Switch("F", "Output_To_File", "Output_File_Type"),
    Switch("GA", "All_Console", "All_File"),
    Switch("GD", "Debug_Console", "Debug_File"),
    Switch("GF", "Fatal_Console", "Fatal_File"),
    Switch("GI", value="Create_Ini"),
    Switch("GP", "Append_File"),
    Switch("GR", "Render_Console", "Render_File"),
    Switch("GS", "Statistic_Console", "Statistic_File"),
    Switch("GW", "Warning_Console", "Warning_File"),
    Switch("HI", value="Include_Header"),
    Switch("HR", "High_Reproducibility"),
    Switch("H", value="Height"),
    Switch("I", value="Input_File_Name"),
    Switch("J", "Jitter", "Jitter_Amount"),
    Switch("KC", "Cyclic_Animation"),
    Switch("KFF", value="Final_Frame"),
    Switch("KFI", value="Initial_Frame"),
    Switch("KF", value="Final_Clock"),
    Switch("KI", value="Initial_Clock"),
    Switch("KLA", "Clockless_Animation"),
    Switch("K", value="Clock"),
    Switch("L", value="Library_Path"),
    Switch("MB", "Bounding", "Bounding_Threshold"),
    Switch("MI", value="Max_Image_Buffer_Memory"),
    Switch("MV", value="Version"),
    Switch("O", value="Output_File_Name"),
    Switch("P", "Pause_When_Done"),
    Switch("Q", value="Quality"),
    Switch("RFI", "Radiosity_From_File"),
    Switch("RFO", "Radiosity_To_File"),
    Switch("RF", value="Radiosity_File_Name"),
    Switch("RP", value="Render_Pattern"),
    Switch("RS", value="Render_Block_Step"),
    Switch("RTR", "Real_Time_Raytracing"),
    Switch("RVP", "Radiosity_Vain_Pretrace"),
    Switch("R", value="Antialias_Depth"),
    Switch("SC", value="Start_Column"),
    Switch("SF", value="Subset_Start_Frame"),
    Switch("SP", value="Preview_Start_Size"),
    Switch("SR", value="Start_Row"),
    Switch("STP", value="Frame_Step"),
    Switch("SU", "Split_Unions"),
    Switch("TH", "Dither", "Dither_Method"),
    Switch("UA", "Output_Alpha"),
    Switch("UD", "Draw_Vistas"),
    Switch("UF", "Field_Render"),
    Switch("UL", "Light_Buffer"),
    Switch("UO", "Odd_Field"),
    Switch("UR", "Remove_Bounds"),
    Switch("UV", "Vista_Buffer"),
    Switch("V", "Verbose"),
    Switch("WL", value="Warning_Level"),
    Switch("WT", value="Work_Threads"),
    Switch("W", value="Width"),
    Switch("X", "Test_Abort", "Test_Abort_Count"),
)
"""In POV-Ray's order of trying: longer letters before their own beginnings."""


class BadValue(ValueError):
    """A value that an option cannot have; the text is the rest of a sentence after its name."""


def find_option(name: str) -> Option | None:
    """Give the option of this INI name, in any case, or None."""
    return _BY_NAME.get(name.lower())


def rank(name: str) -> int:
    """Give an option's place in the canonical order."""
    return _RANK[name]


def match_switch(key: str, quoted: str | None) -> tuple[Switch, str] | None:
    """Give the switch that ``key`` (the text after the sign) means, and its parameter ("" if none).

    ``quoted`` is a quoted parameter directly after ``key``. None: POV-Ray has no such switch.
    """
    for switch in SWITCHES:
        if not key.upper().startswith(switch.letters):
            continue
        rest = key[len(switch.letters) :]
        if quoted is not None:
            if rest:
                continue
            rest = quoted
        needs = switch.parameter
        if rest and needs is Parameter.NONE:
            continue
        if not rest and needs is Parameter.MUST:
            continue
        return switch, rest
    return None


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Give the known word most like ``word``, compared without case, or None."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


_INT = re.compile(r"\s*([+-]?[0-9]{1,18})(\.[0-9]*)?\s*\Z")
_FLOAT = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\s*\Z")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}\Z")
_ON = {"on", "true", "yes", "1"}
_OFF = {"off", "false", "no", "0"}
_MAX_DECLARED_TEXT = 200


def is_off(text: str) -> bool:
    """Tell whether ``text`` switches something off, or is nothing at all."""
    return text.strip().lower() in _OFF | {""}


def parse_value(option: Option, text: str) -> Value:
    """Turn what a person wrote into the option's canonical value.

    Raises BadValue. Whole numbers may have a fraction, which is dropped as POV-Ray does.
    """
    match option.kind:
        case Kind.BOOL:
            return _parse_bool(text)
        case Kind.INT:
            found = _INT.match(text)
            if found is None:
                raise BadValue(f"must be a whole number, not {_shown(text)}")
            return check_value(option, int(found[1]))
        case Kind.FLOAT:
            return check_value(option, _parse_float(text))
        case Kind.GAMMA:
            if text.strip().lower() == "srgb":
                return "sRGB"
            return check_value(option, _parse_float(text))
        case Kind.CHOICE:
            return check_value(option, text.strip().upper())
        case Kind.DECLARE:
            return check_value(option, _parse_declare(text))
        case Kind.PATH | Kind.TEXT:
            return text


def check_value(option: Option, value: object) -> Value:
    """Give ``value`` in canonical form if the option can have it; raises BadValue if not.

    This is the trust boundary's check of a single value: types are exact, a bool is no number.
    """
    match option.kind:
        case Kind.BOOL:
            if not isinstance(value, bool):
                raise BadValue("must be true or false")
            return value
        case Kind.INT:
            if isinstance(value, bool) or not isinstance(value, int):
                raise BadValue("must be a whole number")
            return _in_range(option, value)
        case Kind.FLOAT:
            return _in_range(option, _as_float(value))
        case Kind.GAMMA:
            return "sRGB" if value == "sRGB" else _in_range(option, _as_float(value))
        case Kind.CHOICE:
            if not isinstance(value, str) or value not in option.choices:
                raise BadValue(f"must be one of {', '.join(option.choices)}")
            return value
        case Kind.DECLARE:
            if not isinstance(value, str) or _parse_declare(value) != value:
                raise BadValue("must be name=number in canonical form")
            return value
        case Kind.PATH:
            return check_pov_path(value)
        case Kind.TEXT:
            raise BadValue("cannot be part of a job")


def check_path(value: object) -> str:
    """Give a POSIX path if it is relative, canonical and cannot leave the scene; else BadValue."""
    if not isinstance(value, str) or not value:
        raise BadValue("must be a path")
    if has_control_characters(value):
        raise BadValue("must not hold control characters")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise BadValue("must be valid UTF-8") from None
    if size > MAX_PATH_BYTES:
        raise BadValue(f"must not be longer than {MAX_PATH_BYTES} bytes")
    if value.startswith("/"):
        raise BadValue("must be relative to the scene folder")
    if value != "." and any(part in ("", ".", "..") for part in value.split("/")):
        raise BadValue("must lead straight to a place inside the scene folder")
    return value


def has_control_characters(text: str) -> bool:
    """Tell whether ``text`` could steer a terminal that shows it."""
    return any(ord(char) < 32 or 127 <= ord(char) < 160 for char in text)


def presentable(text: str) -> str:
    """Give ``text`` with everything a terminal would not show as a letter replaced by ``?``."""
    return "".join(char if char.isprintable() else "?" for char in text)


def check_pov_path(value: object) -> str:
    """Like check_path, for paths that POV-Ray itself must read from its options.

    POV-Ray 3.7 cannot read letters beyond ASCII there, and a quote ends the value.
    """
    path = check_path(value)
    if not path.isascii():
        raise BadValue("must be plain ASCII, POV-Ray 3.7 reads no other letters here; rename it")
    if '"' in path:
        raise BadValue("must not hold quotation marks; rename it")
    return path


def written(value: Value) -> str:
    """Give a value as POV-Ray reads it after ``Name=``, without quotes."""
    if isinstance(value, bool):
        return "On" if value else "Off"
    if isinstance(value, float):
        return _number(value)
    return str(value)


def declared_name(value: str) -> str:
    """Give the identifier of a canonical Declare value."""
    return value.partition("=")[0]


def markdown_table() -> str:
    """Give the options as the table of docs/job.md."""
    by_option: dict[str, list[str]] = {}
    for switch in SWITCHES:
        for name in (switch.flag, switch.value):
            by_option.setdefault(name, []).append(f"`+{switch.letters}`")
    lines = ["| option | switch | value | what the farm does |", "|---|---|---|---|"]
    for option in OPTIONS:
        switches = " ".join(by_option.get(option.name, []))
        does = option.policy.value + (f": {option.why}" if option.why else "")
        lines.append(f"| {option.name} | {switches} | {_kind_words(option)} | {does} |")
    return "\n".join(lines) + "\n"


def _kind_words(option: Option) -> str:
    if option.policy is Policy.QUIET:
        return "any"
    if option.choices:
        return ", ".join(option.choices)
    if math.isinf(option.low):
        return option.kind.value
    return f"{option.kind.value}, {_number(option.low)} to {_number(option.high)}"


def _parse_bool(text: str) -> bool:
    word = text.strip().lower()
    if word in _ON:
        return True
    if word in _OFF:
        return False
    raise BadValue(f"must be on or off, not {_shown(text)}")


def _parse_float(text: str) -> float:
    if _FLOAT.match(text) is None:
        raise BadValue(f"must be a number, not {_shown(text)}")
    # What the pattern takes for space float() does not always: the separators U+001C to U+001F.
    return float(text.strip())


def _parse_declare(text: str) -> str:
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or _IDENTIFIER.match(name) is None:
        raise BadValue(f"must be name=number, not {_shown(text)}")
    if len(value) >= 2 and value[0] == value[-1] == '"':
        inner = value[1:-1]
        plain = inner.isascii() and inner.isprintable() and not set(inner) & set("\"'\\")
        if not plain or len(inner) > _MAX_DECLARED_TEXT:
            raise BadValue("may hold only plain ASCII text without quotes or backslashes")
        return f'{name}="{inner}"'
    if _FLOAT.match(value) is None:
        raise BadValue(f"must be name=number, not {_shown(text)}")
    number = float(value)
    if abs(number) > 1e30:
        raise BadValue("must lie between -1e30 and 1e30")
    return f"{name}={_number(number)}"


def _as_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValue("must be a number")
    try:
        return float(value)
    except OverflowError:
        raise BadValue("must be a number POV-Ray can hold") from None


def _in_range(option: Option, value: Value) -> Value:
    assert not isinstance(value, str)
    # A NaN compares false with everything, so ask whether it is inside, not whether outside.
    if not option.low <= value <= option.high or not math.isfinite(value):
        if math.isinf(option.low):
            raise BadValue("must be a finite number")
        low, high = _number(option.low), _number(option.high)
        raise BadValue(f"must lie between {low} and {high}, not be {value}")
    return value


def _number(value: float) -> str:
    text = repr(value)
    return text.removesuffix(".0")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
