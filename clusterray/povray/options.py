"""The one place that turns INI files, job files and switches into one RenderSpec.

Sources are read in order of precedence, weakest first; what is read later wins, and each value
remembers who wrote it. Options that would break the farm's contract are refused here, with a
sentence that names the place. Runs at the submitter, reads INI files from its disk; knows nothing
of job.yaml's own keys (job_file.py) or of which INI is chosen (scene.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clusterray.core.errors import SceneFault, UsageFault
from clusterray.core.model import EXTENSIONS, Rect
from clusterray.povray.ini import (
    COMMAND_LINE,
    DEBIAN,
    Item,
    Origin,
    decode,
    read_ini,
    read_word,
    read_words,
    split_section,
    unknown_option,
)
from clusterray.povray.option_table import (
    DEBIAN_DEFAULTS,
    DEBIAN_LIBRARY_PATHS,
    DEFAULT_DITHER,
    ERROR_DIFFUSION,
    BadValue,
    Kind,
    Option,
    Policy,
    Value,
    check_pov_path,
    declared_name,
    find_option,
    has_control_characters,
    is_off,
    match_switch,
    parse_value,
    presentable,
)
from clusterray.povray.outside import RESERVED, leads_to_secrets
from clusterray.povray.spec import (
    RenderSpec,
    canonical_options,
    effective_format,
    setting_names,
)

MAX_INI_BYTES = 1 << 20
_MAX_INI_DEPTH = 8
_MAX_STEM_BYTES = 200
_IMAGE_SUFFIXES = {
    *(".png", ".tga", ".bmp", ".jpg", ".jpeg", ".ppm", ".pgm", ".exr", ".hdr", ".tif", ".tiff"),
}
_LETTERS = {
    "png": "N",
    "ppm": "P",
    "pgm": "P",
    "tga": "T",
    "bmp": "B",
    "jpg": "J",
    "jpeg": "J",
    "exr": "E",
    "hdr": "H",
}
"""The file type that an extension means."""
_GREY_TYPES = ("N", "P")
_NEVER_DITHERED = ("J", "E")
"""File types that POV-Ray dithers in no case (source/base/image/jpeg.cpp, openexr.cpp)."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, who wrote it, and how it was written, for messages."""

    value: Value
    origin: Origin
    written: str


class Options:
    """Collects settings from their sources; one thread owns it.

    ``root`` is the folder that will be staged and ``start`` the folder inside it where POV-Ray
    will run; both absolute and resolved. ``notes`` are sentences to tell the person once.
    ``outside_folders`` are folders from elsewhere that options name, by the path relative to the
    root under which what is needed of them will stand.
    """

    def __init__(self, root: Path, start: Path) -> None:
        self.root = root
        self.start = start
        self.notes: list[str] = []
        self.outside_folders: dict[str, Path] = {}
        self._scalars: dict[str, Setting] = {}
        self._declares: dict[str, Setting] = {}
        self._library_paths: list[Setting] = []
        self._reading: list[Path] = []
        self._wish: Setting | None = None

    # ------------------------------------------------------------ sources, weakest first

    def add_debian_defaults(self) -> None:
        """Take the values that Debian's own povray.ini sets."""
        for name, text in DEBIAN_DEFAULTS:
            self.set(name, text, DEBIAN)

    def add_ini(self, path: Path, section: str | None = None) -> None:
        """Take an INI file's settings; raises SceneFault naming file and line."""
        shown = self._shown_path(path)
        real = path.resolve()
        if real in self._reading or len(self._reading) >= _MAX_INI_DEPTH:
            raise SceneFault("this INI file includes itself, or too many others", file=shown)
        self._reading.append(real)
        try:
            for item in read_ini(_read_text(path, shown), shown, section):
                self._add_item(item)
        finally:
            self._reading.pop()

    def add_command_line(self, words: Sequence[str]) -> None:
        """Take the words after ``--``; raises UsageFault."""
        for word in words:
            self.add_word(word, COMMAND_LINE)

    def add_word(self, word: str, origin: Origin) -> None:
        """Take one word of a list, which needs no quotes around its spaces."""
        for item in read_word(word, origin):
            self._add_item(item)

    def add_words(self, text: str, origin: Origin) -> None:
        """Take a line of switches and options that stands in a job file."""
        for item in read_words(text, origin):
            self._add_item(item)

    def set(self, name: str, text: str, origin: Origin, written: str | None = None) -> None:
        """Take one value under its INI name, as ``Name=text`` would."""
        option = find_option(name)
        if option is None:
            raise origin.fault(unknown_option(name))
        self._take(option, text, origin, written or f"{option.name}={text}")

    # ------------------------------------------------------------ what was found

    def folder(self, path: str) -> Path:
        """Give where the folder is on this disk that an option's value names."""
        return self.outside_folders.get(path, self.root / path)

    @property
    def input(self) -> Setting | None:
        """The scene file as it was named, or None."""
        return self._scalars.get("Input_File_Name")

    def name_output(self, stem: str, origin: Origin, written: str) -> None:
        """Take a name for the finished picture, without extension."""
        if has_control_characters(stem) or len(os.fsencode(stem)) > _MAX_STEM_BYTES:
            raise origin.fault(
                f"{written}: a picture's name must be one line of at most {_MAX_STEM_BYTES} bytes"
            )
        self._scalars["Output_File_Name"] = Setting(stem, origin, written)

    def wish_extension(self, extension: str, origin: Origin, written: str) -> None:
        """Take the extension of a name given to the picture; an explicit file type is stronger."""
        if extension in _LETTERS:
            self._wish = Setting(extension, origin, written)

    def output_stem(self) -> str | None:
        """Give the finished picture's name without extension, None if nobody named it."""
        setting = self._scalars.get("Output_File_Name")
        return None if setting is None else str(setting.value)

    def spec(self, scene: str, region: Rect | None, scene_source: str) -> RenderSpec:
        """Give the RenderSpec of everything collected.

        ``scene`` is the .pov file's path relative to the root, ``scene_source`` says who chose it.
        Raises UsageFault or SceneFault, whichever the losing line belongs to.
        """
        self._check_still()
        self._settle_format()
        self._check_dither()
        pairs, origins = self._picture_options()
        bits, grey, alpha = self._format()
        sources = {
            "Input_File_Name": scene_source,
            "Width": str(self._scalars["Width"].origin),
            "Height": str(self._scalars["Height"].origin),
            **({"Region": "--region"} if region is not None else {}),
            **{name: str(origin) for name, origin in self._format_origins().items()},
            **dict(zip(setting_names(pairs), map(str, origins), strict=True)),
        }
        width, height = self._scalars["Width"].value, self._scalars["Height"].value
        assert isinstance(width, int)
        assert isinstance(height, int)
        if region is not None and not Rect(0, 0, width, height).contains(region):
            raise UsageFault(
                f"--region {','.join(map(str, region.as_tuple()))} does not lie inside the "
                f"picture of {width}x{height} pixels"
            )
        return RenderSpec(
            input=scene,
            start=PurePosixPath(self.start.relative_to(self.root)).as_posix(),
            width=width,
            height=height,
            region=region,
            file_type=self._file_type,
            bits=bits,
            grey=grey,
            alpha=alpha,
            options=pairs,
            sources={name: presentable(source)[:1000] for name, source in sources.items()},
        )

    # ------------------------------------------------------------ items

    def _add_item(self, item: Item) -> None:
        match item.kind:
            case "option":
                self.set(item.name, item.value or "", item.origin, str(item))
            case "switch":
                self._add_switch(item)
            case "plain":
                self._add_plain(item)

    def _add_switch(self, item: Item) -> None:
        found = match_switch(item.name, item.value)
        if found is None:
            raise item.origin.fault(
                f"{item} is not a switch of POV-Ray 3.7, or lacks its value; "
                "switches look like +W640 or -A"
            )
        switch, rest = found
        rest = _unquoted(rest)
        written = str(item)
        if switch.letters == "F":
            self._take_format(rest, item.sign == "+", item.origin, written)
            return
        if switch.letters == "D":
            return
        if switch.flag:
            sign = "on" if item.sign == "+" else "off"
            self._take(_option(switch.flag), sign, item.origin, written)
        if switch.value and rest:
            self._take(_option(switch.value), rest, item.origin, written)

    def _take_format(self, rest: str, on: bool, origin: Origin, written: str) -> None:
        """Take +F: its letter, and behind it g for grey or the bits of a channel."""
        self._take(_option("Output_To_File"), "on" if on else "off", origin, written)
        if not rest:
            return
        self._take(_option("Output_File_Type"), rest[0], origin, written)
        modifier = rest[1:]
        if modifier.lower() == "g":
            self._take(_option("Grayscale_Output"), "on", origin, written)
        elif modifier.isdecimal():
            self._take(_option("Bits_Per_Color"), modifier, origin, written)
        elif modifier:
            raise origin.fault(f"{written}: after +F{rest[0]} comes g or a number of bits")

    def _add_plain(self, item: Item) -> None:
        word = item.name
        if word.lower().endswith(".pov"):
            self._take(_option("Input_File_Name"), word, item.origin, word)
        elif word.endswith("/"):
            self._take(_option("Library_Path"), word, item.origin, word)
        else:
            self._include(word, item.origin)

    def _include(self, word: str, origin: Origin) -> None:
        """Read another INI file: where POV-Ray starts, else on the library paths."""
        name, section = split_section(word)
        folders = [self.start]
        folders += [self.folder(str(setting.value)) for setting in self._library_paths]
        folders += [Path(path) for path in DEBIAN_LIBRARY_PATHS]
        for folder in folders:
            for candidate in (folder / name, folder / f"{name}.ini", folder / f"{name}.INI"):
                if _answers(candidate.is_file):
                    self.add_ini(candidate, section)
                    return
        raise origin.fault(
            f"{word!r} is neither a POV-Ray option nor a scene nor an INI file that is there"
        )

    # ------------------------------------------------------------ one value

    def _take(self, option: Option, text: str, origin: Origin, written: str) -> None:
        if not text.strip() and option.kind in (Kind.TEXT, Kind.PATH):
            return
        match option.policy:
            case Policy.QUIET:
                return
            case Policy.INCLUDE:
                self._include(text, origin)
            case Policy.REFUSED:
                if not _is_harmless(option, text, origin):
                    raise origin.fault(f"{_named(option, written)} is refused: {option.why}")
            case Policy.NODE:
                if not origin.is_file:
                    raise origin.fault(f"{_named(option, written)} is refused: {option.why}")
                self.notes.append(f"{origin}: {written} is not used; each node decides itself.")
            case Policy.OUTPUT:
                self._take_output(text, origin, written)
            case Policy.FORMAT:
                self._take_format_option(option, text, origin, written)
            case Policy.PICTURE | Policy.SIZE | Policy.INPUT | Policy.ANIMATION:
                self._take_value(option, text, origin, written)

    def _take_value(self, option: Option, text: str, origin: Origin, written: str) -> None:
        if option.name == "Library_Path":
            self._take_library_path(text, origin, written)
            return
        if option.name == "Include_Header":
            text = self._inside(text, origin, written, want="file")
        value = self._parsed(option, text, origin, written)
        setting = Setting(value, origin, written)
        if option.name == "Declare":
            self._take_declare(setting)
        else:
            self._scalars[option.name] = setting

    def _parsed(self, option: Option, text: str, origin: Origin, written: str) -> Value:
        try:
            return parse_value(option, text)
        except BadValue as error:
            raise origin.fault(f"{_named(option, written)}: it {error}") from None

    def _take_declare(self, setting: Setting) -> None:
        """Keep a Declare: within one source the first counts, as in POV-Ray; later sources win."""
        name = declared_name(str(setting.value))
        earlier = self._declares.get(name)
        if earlier is None:
            self._declares[name] = setting
            return
        if earlier.value == setting.value:
            return
        same_source = (earlier.origin.words, earlier.origin.file) == (
            setting.origin.words,
            setting.origin.file,
        )
        kept, lost = (earlier, setting) if same_source else (setting, earlier)
        self._declares[name] = kept
        self.notes.append(
            f"{name} is declared twice: {kept.value} ({kept.origin}) is used, "
            f"{lost.value} ({lost.origin}) is not."
        )

    def _take_library_path(self, text: str, origin: Origin, written: str) -> None:
        if text.strip().rstrip("/") in DEBIAN_LIBRARY_PATHS:
            return
        inside = self._inside(text, origin, written, want="folder")
        if all(setting.value != inside for setting in self._library_paths):
            self._library_paths.append(Setting(inside, origin, written))

    def _take_output(self, text: str, origin: Origin, written: str) -> None:
        """Let +O name the picture, if it is a plain file name; a file's folder is not used."""
        name = text.strip()
        plain = name not in ("", "-", ".", "..") and "/" not in name and "\0" not in name
        if not plain and not origin.is_file:
            raise origin.fault(
                f"{_named(_option('Output_File_Name'), written)} is refused: only a plain file "
                "name can be given here; say where the picture goes with -o"
            )
        stem = picture_stem(PurePosixPath(name).name) if plain or not name.endswith("/") else ""
        if origin.is_file:
            named = f"the picture is named {stem}"
            use = named if stem and name != "-" else "it is not used"
            self.notes.append(f"{origin}: {written}: {use}; say where it goes with -o.")
        if stem and name != "-":
            self.name_output(stem, origin, written)

    def _take_format_option(self, option: Option, text: str, origin: Origin, written: str) -> None:
        if option.name == "Output_To_File":
            if self._parsed(option, text, origin, written) is True:
                return
            if not origin.is_file:
                raise origin.fault(f"{written} is refused: the farm always writes the picture")
            self.notes.append(f"{origin}: {written} is not used; the farm always writes a picture.")
            return
        name = "Bits_Per_Color" if option.name == "Bits_Per_Colour" else option.name
        if name == "Output_File_Type":
            # POV-Ray reads the letter only, so N16 is 8 bits here.
            letter = text.strip()[:1].upper()
            if letter not in EXTENSIONS:
                raise origin.fault(f"{_named(option, written)}: POV-Ray has no such file type")
            self._scalars[name] = Setting(letter, origin, written)
            return
        self._scalars[name] = Setting(self._parsed(option, text, origin, written), origin, written)

    # ------------------------------------------------------------ checks of the whole

    def _check_still(self) -> None:
        """Refuse what makes a film; POV-Ray's own rule (vfe/vfe.cpp) says which ranges do not."""
        initial, final = self._scalars.get("Initial_Frame"), self._scalars.get("Final_Frame")
        frames = (_whole(initial), _whole(final))
        # The ends of a range that is none, as INI files of stills carry them.
        if frames not in ((None, None), (0, 0), (1, 1), (0, None), (None, 0)):
            blamed = final or initial
            assert blamed is not None
            raise blamed.origin.fault(
                f"{blamed.written} makes this an animation; animations come later. "
                "For a still give +KFI1 +KFF1, and +K0.5 for its clock"
            )
        if frames == (None, None):
            # In a still whose frames are given POV-Ray passes over them, as it does over 0 to 1.
            self._refuse_range("Initial_Clock", 0.0)
            self._refuse_range("Final_Clock", 1.0)
        # POV-Ray writes the only frame as the subset too, when it writes down its settings.
        for name in ("Subset_Start_Frame", "Subset_End_Frame"):
            self._refuse_range(name, frames[0])

    def _refuse_range(self, name: str, harmless: int | float | None) -> None:
        setting = self._scalars.get(name)
        if setting is None or setting.value == harmless:
            return
        raise setting.origin.fault(
            f"{setting.written} is part of an animation; animations come later. "
            "For a still give its clock as +K0.5"
        )

    @property
    def _file_type(self) -> str:
        return str(self._scalars["Output_File_Type"].value)

    def _settle_format(self) -> None:
        """Let a name's extension choose the file type where nothing else has."""
        wish = self._wish
        if wish is not None:
            letter = _LETTERS[str(wish.value)]
            if self._scalars["Output_File_Type"].origin == DEBIAN:
                self._scalars["Output_File_Type"] = Setting(letter, wish.origin, wish.written)
                if wish.value == "pgm":
                    grey = Setting(True, wish.origin, wish.written)
                    self._scalars.setdefault("Grayscale_Output", grey)
            else:
                self._check_wish(wish, EXTENSIONS[letter], EXTENSIONS[self._file_type])
        if self._is_on("Grayscale_Output") and self._file_type not in _GREY_TYPES:
            grey = self._scalars["Grayscale_Output"]
            raise grey.origin.fault(f"{grey.written}: POV-Ray writes grey as PNG and PPM only")

    def _check_wish(self, wish: Setting, extension: str, due: str) -> None:
        """Refuse a job file that says two things; a command line is stronger than it."""
        both_in_files = wish.origin.is_file and self._scalars["Output_File_Type"].origin.is_file
        if both_in_files and extension != due:
            raise wish.origin.fault(f"{wish.written}: the picture is a .{due}; name it so")

    def _format(self) -> tuple[int, bool, bool]:
        """Give the bits of a channel, and whether the picture is grey and has alpha."""
        setting = self._scalars.get("Bits_Per_Color")
        asked = 8 if setting is None else int(setting.value)
        grey, alpha = self._is_on("Grayscale_Output"), self._is_on("Output_Alpha")
        bits, grey, alpha = effective_format(self._file_type, asked, grey, alpha)
        if self._file_type == "P" and grey and asked <= 8:
            self.notes.append(
                "The grey PPM gets 16 bits: POV-Ray's own with 8 bits cannot be read by anything."
            )
        return bits, grey, alpha

    def _is_on(self, name: str) -> bool:
        setting = self._scalars.get(name)
        return setting is not None and setting.value is True

    def _check_dither(self) -> None:
        if self._file_type in _NEVER_DITHERED:
            for name in ("Dither", "Dither_Method"):
                self._scalars.pop(name, None)
        if self._file_type != "J":
            self._scalars.pop("Compression", None)
        if not self._is_on("Dither"):
            # Off, so its method means nothing.
            self._scalars.pop("Dither_Method", None)
            return
        dither = self._scalars["Dither"]
        method = self._scalars.setdefault(
            "Dither_Method", Setting(DEFAULT_DITHER, dither.origin, dither.written)
        )
        if method.value in ERROR_DIFFUSION:
            self.notes.append(
                f"{method.written}: dithering by error diffusion runs through the whole picture, "
                "so one node renders it; with +THB2, +THB3 or +THB4 all would."
            )

    def _picture_options(self) -> tuple[tuple[tuple[str, Value], ...], list[Origin]]:
        """Give the canonical pairs and the origin of each."""
        found = [
            *((name, setting) for name, setting in self._scalars.items()),
            *(("Declare", setting) for setting in self._declares.values()),
            *(("Library_Path", setting) for setting in self._library_paths),
        ]
        found = [pair for pair in found if _option(pair[0]).policy is Policy.PICTURE]
        pairs = canonical_options([(name, setting.value) for name, setting in found])
        origin_of = {(name, setting.value): setting.origin for name, setting in found}
        return pairs, [origin_of[pair] for pair in pairs]

    def _format_origins(self) -> dict[str, Origin]:
        names = ("Output_File_Type", "Bits_Per_Color", "Grayscale_Output", "Output_Alpha")
        return {
            name: self._scalars[name].origin if name in self._scalars else DEBIAN for name in names
        }

    # ------------------------------------------------------------ paths

    def _inside(self, text: str, origin: Origin, written: str, want: str) -> str:
        """Give a path relative to the root for one written relative to ``start`` or absolute."""
        path = Path(os.path.normpath(self.start / text.strip()))
        name = _option("Library_Path" if want == "folder" else "Include_Header")
        if not _answers(path.is_dir if want == "folder" else path.is_file):
            raise origin.fault(f"{_named(name, written)}: there is no such {want}, {path}")
        if not path.is_relative_to(self.root):
            path = path.resolve()
        if path.is_relative_to(self.root):
            relative = path.relative_to(self.root).as_posix()
        elif leads_to_secrets(path, self.root):
            raise origin.fault(
                f"{_named(name, written)} is refused: no file of a scene is taken from {path}"
            )
        elif want == "folder":
            relative = self._alias(path)
        else:
            relative = f"{self._alias(path.parent)}/{path.name}"
        try:
            return check_pov_path(relative)
        except BadValue as error:
            raise origin.fault(f"{_named(name, written)}: the path {error}") from None

    def _alias(self, folder: Path) -> str:
        """Give the path under which a folder from elsewhere will stand."""
        for alias, known in self.outside_folders.items():
            if known == folder:
                return alias
        alias = f"{RESERVED}/{len(self.outside_folders) + 1}"
        self.outside_folders[alias] = folder
        return alias

    def _shown_path(self, path: Path) -> str:
        """Give a path as a person knows it: relative to the folder where that is shorter."""
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return str(path)


def picture_stem(name: str) -> str:
    """Give a picture's file name without the extension of a picture format."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in _IMAGE_SUFFIXES and path.stem else name


def presents_input(path: Path, section: str | None = None) -> bool:
    """Tell whether an INI file names a scene of its own."""
    items = read_ini(_read_text(path, path.name), path.name, section)
    return any(_names_input(item) for item in items)


def _names_input(item: Item) -> bool:
    if item.kind == "option":
        return item.name.lower() == "input_file_name"
    if item.kind == "switch":
        found = match_switch(item.name, item.value)
        return found is not None and found[0].letters == "I"
    return item.name.lower().endswith(".pov")


def _read_text(path: Path, shown: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_INI_BYTES + 1)
    except OSError as error:
        raise SceneFault(f"it cannot be read: {error.strerror}", file=shown) from None
    if len(data) > MAX_INI_BYTES:
        raise SceneFault(f"it is larger than {MAX_INI_BYTES} bytes; is it an INI file?", file=shown)
    return decode(data)


def _answers(is_there: Callable[[], bool]) -> bool:
    """Ask the disk; what has a name that no disk takes is not there."""
    try:
        return is_there()
    except (OSError, ValueError):
        return False


def _option(name: str) -> Option:
    option = find_option(name)
    assert option is not None, name
    return option


def _is_harmless(option: Option, text: str, origin: Origin) -> bool:
    """Tell whether a refused option asks for nothing: off, or in a file the whole picture."""
    word = text.strip()
    if option.name.startswith("Start_"):
        return origin.is_file and word in ("0", "0.0", "1")
    if option.name.startswith("End_"):
        # POV-Ray takes an end of 1 for 100 %.
        return origin.is_file and word in ("1", "1.0")
    return is_off(word)


def _named(option: Option, written: str) -> str:
    return written if option.name.lower() in written.lower() else f"{written} ({option.name})"


def _whole(setting: Setting | None) -> int | None:
    return None if setting is None else int(setting.value)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text
