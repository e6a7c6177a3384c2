"""Where POV-Ray looks for a file that a scene names, and which files are its own.

Touches the disk but only asks what is there. Source: POV-Ray v3.7.0.10, FindFile in
source/backend/scene/scene.cpp and source/frontend/filemessagehandler.cpp, extensions in
source/base/fileutil.cpp; tests hold it against the real program.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clusterray.povray.option_table import DEBIAN_LIBRARY_PATHS

WILD = "\ue000"
"""Stands in a name for what only parsing would tell; no file has it in its name."""
MAX_MATCHES = 2000

_IMAGES: dict[str, tuple[str, ...]] = {
    "png": (".png", ".PNG"),
    "jpeg": (".jpg", ".JPG", ".jpeg", ".JPEG"),
    "gif": (".gif", ".GIF"),
    "tga": (".tga", ".TGA"),
    "ppm": (".ppm", ".PPM"),
    "pgm": (".pgm", ".PGM"),
    "iff": (".iff", ".IFF", ".lbm", ".LBM"),
    "tiff": (".tif", ".TIF", ".tiff", ".TIFF"),
    "bmp": (".bmp", ".BMP"),
    "exr": (".exr", ".EXR"),
    "hdr": (".hdr", ".HDR"),
    "pot": (),
    "sys": (".bmp", ".BMP"),
}
IMAGE_TYPES = frozenset(_IMAGES)
"""The words that may stand before an image's name."""
EXTENSIONS: dict[str, tuple[str, ...]] = {
    **_IMAGES,
    "include": (".inc", ".INC"),
    "font": (".ttf", ".TTF"),
    "density": (".df3", ".DF3"),
    "data": (),
    "photon map": (),
}
"""What POV-Ray appends to a name, by image type or else kind of file."""
_NOT_ASCII = re.compile(f"[^\\x00-\\x7f{WILD}]")

_SHIPPED_NAMES = """
include/Mount1.png include/Mount2.png include/arrays.inc include/ash.map include/benediti.map
include/bubinga.map include/bumpmap_.png include/cedar.map include/chars.inc
include/colors.inc include/consts.inc include/crystal.ttf include/cyrvetic.ttf
include/debug.inc include/finish.inc include/fract003.png include/functions.inc
include/glass.inc include/glass_old.inc include/golds.inc include/ior.inc include/logo.inc
include/makegrass.inc include/marbteal.map include/math.inc include/meshmaker.inc
include/metals.inc include/mtmand.pot include/mtmandj.png include/orngwood.map
include/pinkmarb.map include/plasma2.png include/plasma3.png include/povlogo.ttf
include/povmap.png include/rad_def.inc include/rand.inc include/rdgranit.map
include/screen.inc include/shapes.inc include/shapes2.inc include/shapes3.inc
include/shapes_old.inc include/shapesq.inc include/skies.inc include/spiral.df3
include/stage1.inc include/stars.inc include/stdcam.inc include/stdinc.inc
include/stoneold.inc include/stones.inc include/stones1.inc include/stones2.inc
include/strings.inc include/sunpos.inc include/teak.map include/test.png include/textures.inc
include/timrom.ttf include/transforms.inc include/ttffonts.cat include/whiteash.map
include/woodmaps.inc include/woods.inc
ini/allanim.ini ini/allstill.ini ini/low.ini ini/pngflc.ini ini/pngfli.ini ini/povray.ini
ini/quickres.ini ini/res120.ini ini/res1k.ini ini/res320.ini ini/res640.ini ini/res800.ini
ini/slow.ini ini/tgaflc.ini ini/tgafli.ini ini/zipflc.ini ini/zipfli.ini
"""
_SHIPPED = frozenset(_SHIPPED_NAMES.split())
_SHIPPED_ROOT = DEBIAN_LIBRARY_PATHS[0]


@dataclass(frozen=True, slots=True)
class Found:
    """A file that POV-Ray would open: ``path`` is ``folder / name`` as it would be opened.

    ``folder`` is the place of the lookup, None for an absolute name. ``shipped`` is one of
    POV-Ray's own files, which every node has, and which need not be on this machine.
    """

    path: Path
    folder: Path | None
    name: str
    shipped: bool = False


class Lookup:
    """Looks files up as POV-Ray would that is started in ``start``; asks each name once.

    ``libraries`` are the job's own library folders in the order in which it names them.
    """

    def __init__(self, start: Path, libraries: Sequence[Path] = ()) -> None:
        self._start = start
        # Measured: the library paths of POVINI come before those of the command line.
        debian = [Path(path) for path in DEBIAN_LIBRARY_PATHS]
        self._folders = [start, *debian, *libraries]
        self._asked: dict[tuple[str, str], Found | None] = {}

    def find(self, name: str, kind: str) -> Found | None:
        """Give the file that ``name`` means, None if POV-Ray would find none."""
        key = (name, kind)
        if key not in self._asked:
            self._asked[key] = self._find(name, kind)
        return self._asked[key]

    def find_all(self, pattern: str, kind: str) -> list[Found]:
        """Give the files outside POV-Ray's own that a name with WILD parts may mean."""
        found: dict[Path, Found] = {}
        folders = [f for f in self._folders if str(f) not in DEBIAN_LIBRARY_PATHS]
        if not pattern.strip(WILD):
            # Of which nothing is known: not everybody else's files.
            folders = [self._start]
        for candidate in _with_extensions(pattern, kind):
            for folder in folders:
                for match in _matches(folder, candidate):
                    found.setdefault(match.path, match)
        return list(found.values())[:MAX_MATCHES]

    def near_misses(self, name: str) -> str | None:
        """Give the name of a file that differs from ``name`` only in capital letters."""
        path = PurePosixPath(name)
        for folder in self._folders:
            try:
                listed = os.listdir(folder / path.parent)  # noqa: PTH208, names are wanted
            except (OSError, ValueError):
                continue
            for entry in sorted(listed):
                if entry != path.name and entry.lower() == path.name.lower():
                    return (path.parent / entry).as_posix()
        return None

    def _find(self, name: str, kind: str) -> Found | None:
        for candidate in _with_extensions(name, kind):
            if candidate.startswith("/"):
                # Measured: never sought below the library paths.
                if _is_shipped(candidate) or _is_file(candidate):
                    return Found(Path(candidate), None, candidate, _is_shipped(candidate))
                continue
            # A photon map is opened where POV-Ray stands and nowhere else.
            for folder in self._folders[:1] if kind == "photon map" else self._folders:
                found = _in_folder(folder, candidate)
                if found is not None:
                    return found
        return None


def _in_folder(folder: Path, name: str) -> Found | None:
    path = folder / name
    shipped = _is_shipped(f"{folder}/{name}")
    if shipped or _is_file(str(path)):
        return Found(path, folder, name, shipped)
    return None


def _is_shipped(path: str) -> bool:
    if not path.startswith(_SHIPPED_ROOT):
        return False
    path = os.path.normpath(path)
    return path.startswith(f"{_SHIPPED_ROOT}/") and path[len(_SHIPPED_ROOT) + 1 :] in _SHIPPED


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def image_type(name: str) -> str:
    """Give the type POV-Ray takes an image for whose type the scene does not say."""
    suffix = PurePosixPath(name).suffix.lower()
    return next((word for word, known in _IMAGES.items() if suffix in known), "png")


def _with_extensions(name: str, kind: str) -> list[str]:
    """Give the names POV-Ray tries, in its order: the exact one first if its extension fits."""
    # Measured: POV-Ray puts a space in the place of each byte beyond ASCII.
    name = _NOT_ASCII.sub(" ", name)
    extensions = EXTENSIONS[kind]
    fits = any(name.endswith(extension) for extension in extensions)
    longer = [name + extension for extension in extensions]
    return [name, *longer] if fits else [*longer, name]


def _matches(folder: Path, pattern: str) -> Iterator[Found]:
    """Give the files below ``folder`` that a relative name with WILD parts fits."""
    if pattern.startswith("/") or not pattern.strip(WILD + "/"):
        return
    *parents, last = pattern.split("/")
    places = [("", folder)]
    for parent in parents:
        places = [
            (f"{name}{entry}/", place / entry)
            for name, place in places
            for entry in _entries(place, parent)
            if (place / entry).is_dir()
        ][:MAX_MATCHES]
    for name, place in places:
        for entry in _entries(place, last):
            if (place / entry).is_file():
                yield Found(place / entry, folder, f"{name}{entry}")


def _entries(folder: Path, pattern: str) -> list[str]:
    if WILD not in pattern:
        return [pattern]
    fits = re.compile("[^/]*".join(re.escape(part) for part in re.split(f"{WILD}+", pattern)))
    try:
        listed = sorted(os.listdir(folder))  # noqa: PTH208, names are wanted, not paths
    except OSError:
        return []
    return [entry for entry in listed if fits.fullmatch(entry)]
