"""Reads job.yaml, and the params.cfg of 2010, into options and the job's own settings.

Every fault names the file and the line. YAML is read by the safe loader, params.cfg is text; in
neither is anything evaluated. Runs at the submitter. docs/job.md describes every key; a test
compares.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import yaml

from clusterray.core.errors import SceneFault
from clusterray.core.model import MAX_BANDS, Mix, VerifyBands
from clusterray.povray.ini import Origin, decode
from clusterray.povray.option_table import has_control_characters, nearest
from clusterray.povray.options import Options, picture_stem

JOB_FILE = "job.yaml"
PARAMS_FILE = "params.cfg"
MAX_JOB_FILE_BYTES = 1 << 20
MAX_TITLE = 200
PRIORITIES = (-100, 100)
MIXES: tuple[Mix, ...] = ("never", "close", "any")
FILES = ("folder", "needed")
"""The words after ``files``: all files of the folder travel, or only those the scene needs."""
_COLOUR, _GREY = ("Grayscale_Output", "off"), ("Grayscale_Output", "on")
_BITS_8, _BITS_16 = ("Bits_Per_Color", "8"), ("Bits_Per_Color", "16")
FORMATS = {
    "png": (("Output_File_Type", "N"), _BITS_8, _COLOUR),
    "png16": (("Output_File_Type", "N"), _BITS_16, _COLOUR),
    "png-grey": (("Output_File_Type", "N"), _GREY),
    "ppm": (("Output_File_Type", "P"), _BITS_8, _COLOUR),
    "ppm16": (("Output_File_Type", "P"), _BITS_16, _COLOUR),
    "pgm": (("Output_File_Type", "P"), _BITS_16, _GREY),
    "tga": (("Output_File_Type", "T"), _COLOUR),
    "tga-rle": (("Output_File_Type", "C"), _COLOUR),
    "bmp": (("Output_File_Type", "B"), _COLOUR),
    "jpeg": (("Output_File_Type", "J"), _COLOUR),
    "exr": (("Output_File_Type", "E"), _COLOUR),
    "hdr": (("Output_File_Type", "H"), _COLOUR),
}
"""The words after ``format:`` and what they set."""


@dataclass(slots=True)
class JobFile:
    """What a job file says beyond POV-Ray's options, which went to the Options.

    ``scene`` is the scene or INI file as written, with its place; None where it names none.
    """

    scene: str | None = None
    scene_origin: Origin = field(default_factory=Origin)
    title: str = ""
    priority: int = 0
    bands: int | None = None
    mix: Mix = "never"
    verify: VerifyBands = 0
    only_needed: bool = False


def read_job_yaml(path: Path, options: Options) -> JobFile:
    """Read job.yaml into ``options`` and a JobFile; raises SceneFault with file and line."""
    return _YamlJob(path.name, options).read(_read(path))


def read_params_cfg(path: Path, options: Options) -> JobFile:
    """Read the ``key:value`` lines of a params.cfg of 2010; raises SceneFault with its line."""
    job = JobFile()
    for number, line in enumerate(_read(path).splitlines(), start=1):
        origin = Origin(file=path.name, line=number)
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        key, colon, value = line.partition(":")
        if not colon:
            raise origin.fault(f"{line.strip()!r} is not key:value")
        _take_param(key.strip(), value.strip(), origin, job, options)
    return job


PARAM_KEYS = (
    *("inputFile", "outputFile", "jobNumber", "renderType", "imageWidth", "imageHeight"),
    "otherParams",
)


def _take_param(key: str, value: str, origin: Origin, job: JobFile, options: Options) -> None:
    match key:
        case _ if not value and key in PARAM_KEYS:
            return
        case "inputFile":
            job.scene, job.scene_origin = value, origin
        case "outputFile":
            options.set("Output_File_Name", value, origin, f"outputFile:{value}")
        case "jobNumber":
            job.bands = _param_whole(key, value, origin)
        case "renderType":
            if any(word in value.lower() for word in ("anim", "movie", "film", "seq")):
                raise origin.fault(f"renderType:{value}: animations come later")
        case "imageWidth":
            options.set("Width", value, origin, f"imageWidth:{value}")
        case "imageHeight":
            options.set("Height", value, origin, f"imageHeight:{value}")
        case "otherParams":
            options.add_words(value, origin)
        case _:
            raise origin.fault(_unknown_key(key, PARAM_KEYS))


def _param_whole(key: str, value: str, origin: Origin) -> int:
    if not value.isdecimal() or len(value) > 9 or not 1 <= int(value) <= MAX_BANDS:
        raise origin.fault(f"{key} must be a whole number from 1 to {MAX_BANDS}, not {value!r}")
    return int(value)


class _YamlJob:
    """Reads one job.yaml; every reader of a key takes the value's node and its plain value."""

    def __init__(self, file: str, options: Options) -> None:
        self._file = file
        self._options = options
        self._job = JobFile()
        self._loader: yaml.SafeLoader | None = None

    def read(self, text: str) -> JobFile:
        try:
            self._loader = yaml.SafeLoader(text)
            node = self._loader.get_single_node()
            if node is not None:
                self._read_mapping(node, KEYS, self)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = None if mark is None else mark.line + 1
            problem = error.problem or error.context or "it cannot be read"
            raise SceneFault(f"not YAML: {problem}", file=self._file, line=line) from None
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise SceneFault(f"not YAML: {error}", file=self._file) from None
        finally:
            if self._loader is not None:
                self._loader.dispose()
        return self._job

    def _read_mapping(self, node: yaml.Node, keys: KeyTable, owner: _YamlJob) -> None:
        if not isinstance(node, yaml.MappingNode):
            raise self._origin(node).fault("here must be lines of key: value")
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = self._plain(key_node)
            origin = self._origin(key_node)
            if not isinstance(key, str) or key not in keys:
                raise origin.fault(_unknown_key(_shown(key), tuple(keys)))
            if key in seen:
                raise origin.fault(f"{key} is given twice")
            seen.add(key)
            value = self._plain(value_node)
            # A key with nothing behind it is a line somebody meant to fill in later.
            if value is not None:
                keys[key](owner, key, value, self._origin(value_node), value_node)

    def _plain(self, node: yaml.Node) -> object:
        assert self._loader is not None
        return self._loader.construct_object(node, deep=True)

    def _origin(self, node: yaml.Node) -> Origin:
        return Origin(file=self._file, line=node.start_mark.line + 1)

    # ------------------------------------------------------------ keys

    def scene(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        self._job.scene, self._job.scene_origin = _text(key, value, origin), origin

    def side(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        number = _whole(key, value, origin)
        self._options.set(key.capitalize(), str(number), origin, f"{key}: {number}")

    def output(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        name = _text(key, value, origin)
        if "/" in name or name in (".", ".."):
            raise origin.fault(
                f"output: {name}: only a file name can be given here; "
                "say where the picture goes with -o"
            )
        extension = PurePosixPath(name).suffix.lower().lstrip(".")
        self._options.wish_extension(extension, origin, f"output: {name}")
        self._options.name_output(picture_stem(name), origin, f"output: {name}")

    def format(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        word = _text(key, value, origin).lower()
        if word not in FORMATS:
            raise origin.fault(f"format: {word}: there are {', '.join(FORMATS)}")
        for name, text in FORMATS[word]:
            self._options.set(name, text, origin, f"format: {word}")

    def antialias(self, key: str, value: object, origin: Origin, node: yaml.Node) -> None:
        if isinstance(value, bool):
            self._set_antialias(value, origin, f"{key}: {str(value).lower()}")
        elif isinstance(value, int | float):
            self._set_antialias(True, origin, f"{key}: {value}")
            self._options.set("Antialias_Threshold", str(value), origin, f"{key}: {value}")
        elif isinstance(value, dict):
            self._set_antialias(True, origin, key)
            self._read_mapping(node, ANTIALIAS_KEYS, self)
        else:
            raise origin.fault("antialias must be false, true, a threshold or a mapping of its own")

    def _set_antialias(self, on: bool, origin: Origin, written: str) -> None:
        self._options.set("Antialias", "on" if on else "off", origin, written)

    def threshold(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        self._set_number("Antialias_Threshold", key, value, origin)

    def method(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        self._options.set("Sampling_Method", str(_whole(key, value, origin)), origin)

    def depth(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        self._options.set("Antialias_Depth", str(_whole(key, value, origin)), origin)

    def jitter(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        if isinstance(value, bool):
            self._options.set("Jitter", "on" if value else "off", origin)
            return
        self._options.set("Jitter", "on", origin)
        self._set_number("Jitter_Amount", key, value, origin)

    def quality(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        number = _whole(key, value, origin)
        self._options.set("Quality", str(number), origin, f"quality: {number}")

    def options(self, key: str, value: object, origin: Origin, node: yaml.Node) -> None:
        if isinstance(value, str):
            self._options.add_words(value, origin)
            return
        if not isinstance(node, yaml.SequenceNode):
            raise origin.fault("options must be a text or a list of texts")
        for item in node.value:
            place = self._origin(item)
            word = self._plain(item)
            if not isinstance(word, str):
                raise place.fault(f"options must be texts; write {_shown(word)} in quotes")
            self._options.add_word(word, place)

    def priority(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        low, high = PRIORITIES
        number = _whole(key, value, origin)
        if not low <= number <= high:
            raise origin.fault(f"priority must lie between {low} and {high}, not be {number}")
        self._job.priority = number

    def bands(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        number = _whole(key, value, origin)
        if not 1 <= number <= MAX_BANDS:
            raise origin.fault(f"bands must lie between 1 and {MAX_BANDS}, not be {number}")
        self._job.bands = number

    def files(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        word = _text(key, value, origin).lower()
        if word not in FILES:
            raise origin.fault(f"files: {word}: there are {' and '.join(FILES)}")
        self._job.only_needed = word == "needed"

    def title(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        text = str(value) if isinstance(value, int | float) else _text(key, value, origin)
        if len(text) > MAX_TITLE or has_control_characters(text):
            raise origin.fault(f"title must be one line of at most {MAX_TITLE} letters")
        self._job.title = text

    def mix(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        word = _text(key, value, origin)
        for mix in MIXES:
            if word == mix:
                self._job.mix = mix
                return
        raise origin.fault(f"mix must be never, close or any, not {word}")

    def verify(self, key: str, value: object, origin: Origin, _node: yaml.Node) -> None:
        if value == "all":
            self._job.verify = "all"
        elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_BANDS:
            self._job.verify = value
        else:
            shown = _shown(value)
            raise origin.fault(f"{key} must be all or from 0 to {MAX_BANDS}, not {shown}")

    def _set_number(self, name: str, key: str, value: object, origin: Origin) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise origin.fault(f"{key} must be a number, not {_shown(value)}")
        self._options.set(name, str(value), origin, f"{key}: {value}")


KeyTable = dict[str, Callable[[_YamlJob, str, object, Origin, yaml.Node], None]]

KEYS: KeyTable = {
    "scene": _YamlJob.scene,
    "width": _YamlJob.side,
    "height": _YamlJob.side,
    "output": _YamlJob.output,
    "format": _YamlJob.format,
    "antialias": _YamlJob.antialias,
    "quality": _YamlJob.quality,
    "options": _YamlJob.options,
    "priority": _YamlJob.priority,
    "bands": _YamlJob.bands,
    "title": _YamlJob.title,
    "mix": _YamlJob.mix,
    "verify": _YamlJob.verify,
    "files": _YamlJob.files,
}
"""The keys of job.yaml and who reads each."""

ANTIALIAS_KEYS: KeyTable = {
    "threshold": _YamlJob.threshold,
    "method": _YamlJob.method,
    "depth": _YamlJob.depth,
    "jitter": _YamlJob.jitter,
}
"""The keys below ``antialias``."""


def _unknown_key(key: str, known: tuple[str, ...]) -> str:
    near = nearest(key, known)
    hint = f"did you mean {near}?" if near else f"the keys are {', '.join(known)}"
    return f"unknown key {key}; {hint}"


def _shown(value: object) -> str:
    # Not repr: a few lines of YAML can stand for more text than any memory holds.
    return value if isinstance(value, str) else reprlib.repr(value)


def _text(key: str, value: object, origin: Origin) -> str:
    if not isinstance(value, str) or not value.strip():
        raise origin.fault(f"{key} must be a text; put it in quotes if it looks like a number")
    return value.strip()


def _whole(key: str, value: object, origin: Origin) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise origin.fault(f"{key} must be a whole number, not {_shown(value)}")
    return value


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JOB_FILE_BYTES + 1)
    except OSError as error:
        raise SceneFault(f"it cannot be read: {error.strerror}", file=path.name) from None
    if len(data) > MAX_JOB_FILE_BYTES:
        raise SceneFault(f"it is larger than {MAX_JOB_FILE_BYTES} bytes", file=path.name)
    return decode(data)
