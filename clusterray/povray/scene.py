"""Finds out what a SCENE on the command line means: what to render, and which files travel.

The rules are DESIGN's: job.yaml, params.cfg, the only INI, the only .pov, in this order. Runs at
the submitter, before anything is sent; touches the disk but only reads. Knows nothing of heads.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from clusterray.core.errors import SceneFault, UsageFault
from clusterray.core.model import Chance, Mix, Rect, VerifyBands
from clusterray.povray.chance import find_chance
from clusterray.povray.ini import Origin, split_section
from clusterray.povray.job_file import (
    JOB_FILE,
    PARAMS_FILE,
    JobFile,
    read_job_yaml,
    read_params_cfg,
)
from clusterray.povray.light import plan_light, scene_texts
from clusterray.povray.needs import Needs, find_needs
from clusterray.povray.option_table import BadValue, check_path
from clusterray.povray.options import Options, presents_input
from clusterray.povray.outside import Layout, lay_out, leads_to_secrets
from clusterray.povray.spec import RenderSpec, canonical_options

RESULT_KEYWORD = b"ClusterRay"
"""Marks a picture as made by a farm: keyword of a PNG's text chunk, word of other comments."""
POVRAY_INI = "povray.ini"

_SKIPPED_FOLDERS = frozenset(
    {
        *(".git", ".svn", ".hg", ".bzr", "CVS", "_darcs"),
        *("__pycache__", ".cache", ".mypy_cache", ".pytest_cache", ".ruff_cache"),
        *(".Trash", ".Spotlight-V100", "@eaDir", "$RECYCLE.BIN"),
    }
)
_SKIPPED_FILES = re.compile(
    r"""\.DS_Store | Thumbs\.db | desktop\.ini | .*~ | \#.*\# | \.\#.*
    | .*\.sw[a-p] | .*\.pov-state | \._.*""",
    re.VERBOSE | re.DOTALL,
)
_TEXT_SUFFIXES = frozenset(
    {".pov", ".inc", ".ini", ".mac", ".mcr", ".map", ".txt", ".cfg", ".yaml", ".yml", ".csv", ""}
)
_MAX_TEXT_BYTES = 16 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
_PICTURE_SUFFIXES = frozenset(
    {".png", ".ppm", ".pgm", ".tga", ".jpg", ".jpeg", ".exr", ".hdr"},
)
_MARKED_BYTES = 512
"""In so many first or last bytes files other than PNG carry the mark; BMP has no room for it."""
_MAX_CHUNKS = 64
_MAX_LISTED = 20


@dataclass(slots=True)
class JobPlan:
    """What a SCENE means, before anything is sent.

    ``root`` is the folder to stage, absolute. ``output_name`` is the finished picture's file name.
    ``bands`` is the number of bands wished for, None leaves it to the farm. ``notes`` are
    sentences to tell the person once; ``files_to_stage`` may add some. ``mix`` says which kinds of
    POV-Ray may share a frame, ``verify`` how many of its bands are rendered again and compared.
    ``chance`` is what the scene's text has that its fidelity depends on.

    ``folder`` is the scene's folder relative to the root: "." unless the scene climbs out of it.
    ``needed`` are the staged files that the scene was found to need, with their place on this disk;
    ``elsewhere`` those of them that stand not at that path below the root. ``only_needed`` leaves
    the rest of the folder at home.
    """

    root: Path
    spec: RenderSpec
    output_name: str
    title: str
    priority: int = 0
    bands: int | None = None
    notes: list[str] = field(default_factory=list)
    mix: Mix = "never"
    verify: VerifyBands = 0
    folder: str = "."
    needed: dict[str, Path] = field(default_factory=dict)
    elsewhere: dict[str, Path] = field(default_factory=dict)
    only_needed: bool = False
    chance: list[Chance] = field(default_factory=list)


# -------------------------------------------------------------------- what to render


def plan_job(
    scene: Path,
    options: Sequence[str],
    *,
    width: int | None,
    height: int | None,
    region: Rect | None,
    home: Path,
    only_needed: bool = False,
    out_extension: str | None = None,
) -> JobPlan:
    """Decide what is rendered and how.

    ``scene`` is a folder, a .pov or an .ini file, the last also as ``scene.ini[section]``.
    ``options`` are the words after ``--``; ``width``, ``height`` and ``region`` (pixels of the
    whole picture) come from their own switches; ``home`` is the person's home folder;
    ``only_needed`` is stronger than what job.yaml says; ``out_extension`` is that of the name given
    with -o, lower case, without dot. Raises UsageFault for the command line, SceneFault for the
    folder and its files.
    """
    target, section = _existing(scene)
    _refuse_home(target, home)
    if target.is_dir():
        plan = _Planner(target)
        plan.read_folder()
    else:
        plan = _Planner(target.parent)
        plan.read_file(target, section)
    plan.options.add_command_line(options)
    for name, side in (("Width", width), ("Height", height)):
        if side is not None:
            switch = f"--{name.lower()}"
            plan.options.set(name, str(side), Origin(words=switch), f"{switch} {side}")
    if out_extension is not None:
        name = f"-o .{out_extension}"
        plan.options.wish_extension(out_extension, Origin(words="-o"), name)
    return plan.finish(region, home, only_needed=only_needed)


class _Planner:
    """Collects what the files of one folder say; lives for one plan_job."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names = _list_folder(root)
        self._job = JobFile()
        self._chosen: tuple[str, str] | None = None
        self._needs = Needs()
        self.options = Options(root, root)
        self.options.add_debian_defaults()

    # ------------------------------------------------------------ the folder's own files

    def read_folder(self) -> None:
        """Take the folder's job file, or its only INI."""
        self._read_povray_ini()
        if JOB_FILE in self._names:
            self._take_job(read_job_yaml, self._root / JOB_FILE)
        elif PARAMS_FILE in self._names:
            self._take_job(read_params_cfg, self._root / PARAMS_FILE)
        else:
            self._read_only_ini()

    def read_file(self, path: Path, section: str | None) -> None:
        """Take the .pov or .ini file that was named."""
        suffix = path.suffix.lower()
        if suffix not in (".pov", ".ini"):
            raise UsageFault(
                f"{path} is neither a folder nor a .pov nor an .ini file; "
                "give one of these, or the folder it is in"
            )
        if path.name != POVRAY_INI:
            self._read_povray_ini()
        for name in (JOB_FILE, PARAMS_FILE):
            if name in self._names:
                self.options.notes.append(f"{name} is not read, because {path.name} was named.")
        if suffix == ".ini":
            self.options.add_ini(path, section)
        else:
            self._choose(path.name, "command line")

    def _read_povray_ini(self) -> None:
        """Read what POV-Ray itself would read where it starts."""
        if POVRAY_INI in self._names:
            self.options.add_ini(self._root / POVRAY_INI)

    def _read_only_ini(self) -> None:
        inis = self._files_named(".ini")
        scenes = self._files_named(".pov")
        if len(inis) == 1:
            path = self._root / inis[0]
            if len(scenes) == 1 or presents_input(path):
                self.options.add_ini(path)
                return
        if inis and scenes:
            self.options.notes.append(
                f"{_and(inis)} {'is' if len(inis) == 1 else 'are'} not read; "
                "name an INI file instead of the folder to use it."
            )

    def _take_job(self, read: Callable[[Path, Options], JobFile], path: Path) -> None:
        """Read a job file: its scene or INI first, so that its other keys are stronger."""
        # Read once for the scene's name alone, and once for good.
        named = read(path, Options(self._root, self._root))
        if named.scene is not None:
            self._take_scene(named.scene, named.scene_origin)
        self._job = read(path, self.options)

    def _take_scene(self, scene: str, origin: Origin) -> None:
        name, section = split_section(scene)
        if not name.lower().endswith(".ini"):
            self.options.set("Input_File_Name", scene, origin, f"scene: {scene}")
            return
        path = Path(os.path.normpath(self._root / name))
        if not path.is_relative_to(self._root) or not path.is_file():
            raise origin.fault(f"there is no file {name} in {self._root}")
        self.options.add_ini(path, section)

    # ------------------------------------------------------------ the end

    def finish(self, region: Rect | None, home: Path, *, only_needed: bool) -> JobPlan:
        """Put everything together."""
        main, source = self._main_scene()
        options = self.options
        spec = options.spec(main, region, source)
        self._needs = self._find_needs(spec)
        _note_own_povray_ini(home, options.notes)
        stem = options.output_stem() or Path(main).stem
        plan = JobPlan(
            root=self._root,
            spec=spec,
            output_name=f"{stem}.{spec.extension}",
            title=self._job.title or Path(main).stem,
            priority=self._job.priority,
            bands=self._job.bands,
            notes=options.notes,
            mix=self._job.mix,
            verify=self._job.verify,
            only_needed=only_needed or self._job.only_needed,
            chance=find_chance(self._own_texts(spec)),
        )
        texts = self._texts(spec)
        self._lay_out(plan)
        self._plan_light(plan, texts)
        return plan

    def _find_needs(self, spec: RenderSpec) -> Needs:
        header = spec.value("Include_Header")
        return find_needs(
            self._root / spec.input,
            start=self._root / spec.start,
            libraries=[self.options.folder(path) for path in spec.library_paths],
            headers=[] if header is None else [self._header(str(header))],
            declares=_declared(spec),
        )

    def _header(self, path: str) -> Path:
        folder, _, name = path.rpartition("/")
        return self.options.folder(folder or ".") / name

    def _lay_out(self, plan: JobPlan) -> None:
        """Give every needed file its place in the staged tree, which may have to begin higher."""
        aliases = self.options.outside_folders
        layout = lay_out(self._root, self._needs.files, aliases, all_unknown=plan.only_needed)
        plan.notes += layout.notes
        plan.needed, plan.elsewhere = layout.needed, layout.elsewhere
        plan.spec = _moved(plan.spec, self._root, layout)
        if layout.up:
            plan.root = self._root.parents[layout.up - 1]
            plan.folder = self._root.relative_to(plan.root).as_posix()
        plan.needed.setdefault(plan.spec.input, plan.root / plan.spec.input)

    def _main_scene(self) -> tuple[str, str]:
        """Give the scene file relative to the root, and who chose it."""
        named = self.options.input
        if named is not None:
            return self._named_scene(str(named.value), named.origin), str(named.origin)
        if self._chosen is not None:
            return self._chosen
        scenes = self._files_named(".pov")
        if len(scenes) == 1:
            return _utf8(scenes[0]), "the only .pov of the folder"
        raise SceneFault(self._what_there_is(scenes))

    def _named_scene(self, name: str, origin: Origin) -> str:
        wanted = Path(os.path.normpath(self.options.start / name.strip()))
        for path in (wanted, Path(f"{wanted}.pov"), Path(f"{wanted}.POV")):
            if not path.is_file():
                continue
            if path.suffix.lower() != ".pov":
                raise origin.fault(f"{name} is not a .pov file")
            if not path.is_relative_to(self._root):
                raise origin.fault(
                    f"{name} lies outside the folder {self._root}, and only that travels; "
                    "submit the folder that holds it all"
                )
            return _utf8(path.relative_to(self._root).as_posix())
        raise origin.fault(f"there is no scene {name} in {self._root}")

    def _choose(self, name: str, source: str) -> None:
        self._chosen = (_utf8(name), source)

    def _what_there_is(self, scenes: list[str]) -> str:
        if not self._names:
            return f"{self._root} is empty; there is no scene in it"
        if scenes:
            return (
                f"{self._root} holds {len(scenes)} scenes: {_and(scenes)}; "
                "name one of them, or write it into job.yaml as scene: ..."
            )
        if self._files_named(".ini"):
            return (
                f"{self._root} holds no .pov file, and no INI file that is used names one; "
                "name the file to render"
            )
        return f"{self._root} holds neither a .pov file nor job.yaml; name the folder of a scene"

    def _files_named(self, suffix: str) -> list[str]:
        return [
            name
            for name in self._names
            if name.lower().endswith(suffix)
            and name != POVRAY_INI
            and not name.startswith(".")
            and not _SKIPPED_FILES.fullmatch(name)
            and (self._root / name).is_file()
        ]

    def _own_texts(self, spec: RenderSpec) -> Iterator[tuple[str, Path]]:
        """Give the scene's own texts and what to call them."""
        for path in self._needs.texts:
            yield _printable(os.path.relpath(path, self._root / spec.start)), path

    def _texts(self, spec: RenderSpec) -> list[Path]:
        """Give the scene's own texts, where they stand on this disk."""
        start = self._root / spec.start
        libraries = [self._root / path for path in spec.library_paths]
        texts = scene_texts(self._root, start, self._root / spec.input, libraries)
        header = spec.value("Include_Header")
        if header is not None:
            texts += scene_texts(self._root, start, self._root / str(header), libraries)
        return texts + [path for path in self._needs.texts if path not in texts]

    def _plan_light(self, plan: JobPlan, texts: list[Path]) -> None:
        """Decide how its bands share light, when it is known where its texts will stand."""
        places = {os.path.normpath(path): name for name, path in plan.needed.items()}
        staged: dict[str, Path] = {}
        for path in texts:
            place = os.path.normpath(path)
            name = places.get(place) or os.path.relpath(place, plan.root)
            # What is named by an absolute path does not travel.
            if not name.startswith("../"):
                staged.setdefault(name, path)
        light = plan_light(staged)
        if light.whole:
            plan.bands = 1
        if light.own_map:
            # What is loaded is the same for every band.
            plan.chance = [each for each in plan.chance if each.feature != "photons"]
        plan.spec = replace(plan.spec, light=light.passes, photon_files=light.photon_files)
        if light.note:
            plan.notes.append(light.note)


def _declared(spec: RenderSpec) -> list[tuple[str, str]]:
    """Give the identifiers a job declares and their values as written."""
    pairs = [str(value).partition("=") for name, value in spec.options if name == "Declare"]
    return [(name, value) for name, _, value in pairs]


def _moved(spec: RenderSpec, root: Path, layout: Layout) -> RenderSpec:
    """Give the spec for the tree that the scene's folder ``root`` lies in."""
    options = [*spec.options, *(("Library_Path", path) for path in layout.libraries)]
    if layout.up:
        prefix = "/".join(root.parts[-layout.up :])
        options = [
            (name, f"{prefix}/{value}" if name in ("Library_Path", "Include_Header") else value)
            for name, value in options
        ]
        start = prefix if spec.start == "." else f"{prefix}/{spec.start}"
        spec = replace(spec, input=f"{prefix}/{spec.input}", start=start)
    return replace(spec, options=canonical_options(options))


def _existing(scene: Path) -> tuple[Path, str | None]:
    """Give the absolute path of SCENE and the section asked for."""
    section: str | None = None
    try:
        if not os.path.lexists(scene):
            name, section = split_section(str(scene))
            if section is None or not os.path.lexists(name):
                raise UsageFault(f"there is no file or folder {scene}")
            scene = Path(name)
        mode = scene.stat().st_mode
        resolved = scene.parent.resolve() / scene.name if scene.is_file() else scene.resolve()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SceneFault(f"{scene} cannot be read: {reason}") from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise UsageFault(f"{scene} is neither a folder nor a file")
    return resolved, section


def _refuse_home(target: Path, home: Path) -> None:
    """Refuse to stage a whole home folder, or what holds it."""
    folder = target if target.is_dir() else target.parent
    home = home.resolve()
    if folder == Path(folder.anchor):
        what = "the whole file system"
    elif folder == home:
        what = "your home folder"
    elif home.is_relative_to(folder) and folder.parent == Path(folder.anchor):
        what = "where home folders are kept"
    else:
        return
    raise SceneFault(
        f"{folder} is {what}, and all of it would be sent; "
        "put the scene and its files into a folder of their own"
    )


def _list_folder(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208, names are wanted, not paths
    except OSError as error:
        raise SceneFault(f"the folder {folder} cannot be read: {error.strerror}") from None


def _note_own_povray_ini(home: Path, notes: list[str]) -> None:
    for own in (home / ".povray", home / ".povrayrc"):
        if own.exists():
            notes.append(
                f"Your own settings in {own} are not used, so that the picture is the same for "
                "everyone; put what the scene needs into its folder."
            )
            return


def _and(names: Sequence[str]) -> str:
    shown = [_printable(name) for name in names[:_MAX_LISTED]]
    if len(names) > _MAX_LISTED:
        shown.append(f"{len(names) - _MAX_LISTED} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _printable(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _utf8(path: str) -> str:
    """Give ``path`` if it can travel; raises SceneFault naming it."""
    try:
        return check_path(path)
    except BadValue as error:
        raise SceneFault(f"the file name {path!r} {error}; rename it") from None


# -------------------------------------------------------------------- which files travel


@dataclass(slots=True)
class _Staging:
    """What the walk through a folder has found."""

    files: dict[str, int] = field(default_factory=dict)
    """POSIX path relative to the root -> size in bytes."""
    own_pictures: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def files_to_stage(plan: JobPlan, *, max_bytes: int, max_files: int) -> list[str]:
    """Give the files that travel, as POSIX paths relative to ``plan.root``, sorted.

    What the scene was found to need, and unless that is all that is wanted, the rest of its folder:
    there links are followed, while caches, version control, editors' backups and pictures that a
    farm made stay at home, the last unless a text of the scene names them. Raises SceneFault for
    more than ``max_bytes`` or ``max_files`` (naming the largest file), for names that cannot travel
    and for what cannot be read. Adds notes to the plan.
    """
    found = _Staging()
    if not plan.only_needed:
        _walk(plan.root, "" if plan.folder == "." else plan.folder, found, ())
        for name in _results_to_leave(plan.root, found):
            del found.files[name]
    for name, path in plan.needed.items():
        found.files[name] = _size_of(path)
    plan.notes += found.notes
    _check_limits(plan.root / plan.folder, found, max_bytes, max_files)
    return sorted(found.files)


def _size_of(path: Path) -> int:
    """Give the size of a file that the scene needs; raises SceneFault if it cannot be read."""
    try:
        if not os.access(path, os.R_OK):
            raise SceneFault(f"{path} cannot be read: Permission denied")
        return path.stat().st_size
    except OSError as error:
        raise SceneFault(f"{path} cannot be read: {error.strerror}") from None


def _walk(root: Path, below: str, found: _Staging, above: tuple[tuple[int, int], ...]) -> None:
    folder = root / below
    try:
        info = folder.stat()
        # A link to a folder that holds it would lead round for ever.
        if (info.st_dev, info.st_ino) in above:
            return
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SceneFault(f"the folder {folder} cannot be read: {error.strerror}") from None
    for entry in listed:
        path = f"{below}/{entry.name}" if below else entry.name
        _take_entry(root, path, entry, found, (*above, (info.st_dev, info.st_ino)))


def _take_entry(
    root: Path,
    path: str,
    entry: os.DirEntry[str],
    found: _Staging,
    above: tuple[tuple[int, int], ...],
) -> None:
    if entry.name in _SKIPPED_FOLDERS or _SKIPPED_FILES.fullmatch(entry.name):
        return
    _utf8(path)
    try:
        info = entry.stat()
    except OSError as error:
        if not entry.is_symlink():
            raise SceneFault(f"{root / path} cannot be read: {error.strerror}") from None
        found.notes.append(f"{_printable(path)} is a link that leads nowhere; it is left out.")
        return
    if entry.is_symlink() and leads_to_secrets(root / path, root):
        found.notes.append(f"{_printable(path)} is a link to what no scene is made of; left out.")
    elif stat.S_ISDIR(info.st_mode):
        _walk(root, path, found, above)
    elif stat.S_ISREG(info.st_mode):
        _take_file(root, path, info.st_size, found)
    else:
        found.notes.append(f"{_printable(path)} is no regular file; it is left out.")


def _take_file(root: Path, path: str, size: int, found: _Staging) -> None:
    if not os.access(root / path, os.R_OK):
        raise SceneFault(f"{root / path} cannot be read: Permission denied")
    found.files[path] = size
    suffix = Path(path).suffix.lower()
    if suffix in _PICTURE_SUFFIXES and _is_own_picture(root / path):
        found.own_pictures.append(path)
    elif suffix in _TEXT_SUFFIXES and size <= _MAX_TEXT_BYTES:
        found.texts.append(path)


def _results_to_leave(root: Path, found: _Staging) -> list[str]:
    """Give the pictures a farm made that no text of the scene names."""
    if not found.own_pictures:
        return []
    texts = [_bytes_of(root / path) for path in found.texts]
    return [
        path
        for path in found.own_pictures
        if not any(_names_picture(text, Path(path)) for text in texts)
    ]


def _names_picture(text: bytes, path: Path) -> bool:
    # POV-Ray appends a missing extension, so "maps/wood" names wood.png too.
    return any(
        word in text
        for encoding in ("utf-8", "latin-1")
        for word in (
            path.name.encode(encoding, "replace"),
            path.stem.encode(encoding, "replace") + b'"',
        )
    )


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SceneFault(f"{path} cannot be read: {error.strerror}") from None


def _is_own_picture(path: Path) -> bool:
    """Tell whether a picture carries the farm's mark, a PNG before its pixels."""
    try:
        with path.open("rb") as file:
            if file.read(len(_PNG)) != _PNG:
                return _is_marked(file)
            return any(text.startswith(RESULT_KEYWORD + b"\0") for text in _text_chunks(file))
    except OSError as error:
        raise SceneFault(f"{path} cannot be read: {error.strerror}") from None


def _is_marked(file: BinaryIO) -> bool:
    """Look for the mark where other files than PNG have it: at the beginning, Targa at the end."""
    size = file.seek(0, os.SEEK_END)
    for start in (0, max(0, size - _MARKED_BYTES)):
        file.seek(start)
        if RESULT_KEYWORD + b" " in file.read(_MARKED_BYTES):
            return True
    return False


def _text_chunks(file: BinaryIO) -> Iterator[bytes]:
    """Give the beginnings of the tEXt chunks before the first IDAT."""
    for _ in range(_MAX_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            return
        length, kind = struct.unpack(">I4s", header)
        if kind == b"IDAT":
            return
        begin = file.tell()
        if kind == b"tEXt":
            yield file.read(min(length, 80))
        file.seek(begin + length + 4)


def _check_limits(root: Path, found: _Staging, max_bytes: int, max_files: int) -> None:
    if not found.files:
        raise SceneFault(f"{root} holds nothing that could be sent")
    largest = max(found.files, key=lambda path: (found.files[path], path))
    shown = f"{_printable(largest)} ({_size(found.files[largest])})"
    total = sum(found.files.values())
    if total > max_bytes:
        raise SceneFault(
            f"{root} holds {_size(total)}, more than the limit of {_size(max_bytes)}; "
            f"the largest file is {shown}"
        )
    if len(found.files) > max_files:
        raise SceneFault(
            f"{root} holds {len(found.files)} files, more than the limit of {max_files}; "
            f"the largest is {shown}"
        )


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{count} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
