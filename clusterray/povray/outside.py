"""Decides where the files a scene needs stand in what is staged, and refuses what cannot be.

The staged tree is the scene's folder. A name that climbs out of it with ``..`` moves the tree's
root up, so that POV-Ray still climbs inside the tree; a library folder elsewhere stands under
RESERVED, and the job's library path is pointed there. Nothing is taken along from outside that the
scene does not name, and every such file is said. Runs at the submitter; only asks the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clusterray.core.errors import SceneFault
from clusterray.povray.lookup import Found
from clusterray.povray.needs import Need
from clusterray.povray.option_table import BadValue, check_path, presentable
from clusterray.povray.statements import Kind

RESERVED = "clusterray-outside"
"""Below this folder of the staged tree stand the library folders from elsewhere, by number."""

_VERBS: dict[Kind, tuple[str, str]] = {
    "include": ("includes", "include"),
    "image": ("uses the image", "use the image"),
    "height field": ("uses the height field", "use the height field"),
    "font": ("uses the font", "use the font"),
    "density": ("uses the density file", "use the density file"),
    "data": ("reads", "read"),
    "photon map": ("loads the photon map", "load the photon map"),
    "question": ("asks for", "ask for"),
}
_SYSTEM = ("/etc", "/proc", "/sys", "/dev", "/run", "/boot", "/var/run", "/var/log")
_NO_SYSTEM = ("/dev/shm", "/run/media")
_HARMLESS_HIDDEN = frozenset({".povray", ".fonts", ".local"})
_MAX_LISTED = 20


@dataclass(slots=True)
class Layout:
    """Where things stand in the staged tree.

    ``up`` is the number of folders by which the tree's root lies above the scene's folder.
    ``needed`` are the staged files that were found, by their path in the tree, with their place on
    this disk; ``elsewhere`` are those of them that stand at another place below the tree's root.
    ``libraries`` are further library folders, as paths relative to the scene's folder.
    """

    up: int = 0
    needed: dict[str, Path] = field(default_factory=dict)
    elsewhere: dict[str, Path] = field(default_factory=dict)
    libraries: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def lay_out(
    root: Path, needs: Iterable[Need], aliases: Mapping[str, Path], *, all_unknown: bool
) -> Layout:
    """Lay out the scene in the folder ``root``.

    ``aliases`` are the library folders from elsewhere, by their path relative to ``root``.
    ``all_unknown``: also note the names of which nothing can be known. Raises SceneFault for a file
    that is missing for certain or may not be taken along.
    """
    return _Planner(root, aliases, all_unknown=all_unknown).lay_out(list(needs))


def leads_to_secrets(path: Path, scene: Path) -> bool:
    """Tell whether a file is likely to be a secret or the system's own.

    That is what lies in the system's folders or is hidden, unless the folder ``scene`` does too.
    """
    real, scene = os.path.realpath(path), Path(os.path.realpath(scene))
    for folder in _SYSTEM:
        if Path(real).is_relative_to(folder) and not scene.is_relative_to(folder):
            return not any(Path(real).is_relative_to(other) for other in _NO_SYSTEM)
    beyond = os.path.relpath(real, os.path.commonpath((real, scene)))
    hidden = (part for part in Path(beyond).parts if part.startswith("."))
    return any(part not in _HARMLESS_HIDDEN for part in hidden if part != ".")


class _Planner:
    """Lives for one lay_out."""

    def __init__(self, root: Path, aliases: Mapping[str, Path], *, all_unknown: bool) -> None:
        self._root = root
        self._alias_of = {path: alias for alias, path in aliases.items()}
        self._all_unknown = all_unknown
        self._layout = Layout()
        self._places: dict[str, tuple[Path, Need]] = {}
        self._faults: list[SceneFault] = []

    def lay_out(self, needs: Sequence[Need]) -> Layout:
        for need in needs:
            if need.found is None:
                self._missing(need)
            elif not need.found.shipped:
                self._take(need, need.found)
        self._raise_faults()
        return self._finish()

    # ------------------------------------------------------------ one need

    def _missing(self, need: Need) -> None:
        if "*" in need.name:
            if need.name.strip("*") or self._all_unknown:
                self._note(need, "a name that is put together while parsing; nothing here fits it")
            return
        self._complain(need, "which is nowhere in the folder nor among POV-Ray's own files")

    def _take(self, need: Need, found: Found) -> None:
        if found.folder is None:
            if need.kind != "question":
                self._complain(
                    need,
                    "an absolute path, which the machines that render do not have; copy the file "
                    "into the folder and name it from there",
                )
            return
        place = self._place(found)
        if place is None:
            self._complain(
                need, f"which leads out of the library folder {found.folder}; copy the file over"
            )
            return
        if self._is_foreign(found.path) and leads_to_secrets(found.path, self._root):
            raise self._fault(
                need,
                f"which is {os.path.realpath(found.path)}: no file of a scene is taken from there",
            )
        self._places.setdefault(place, (found.path, need))

    def _place(self, found: Found) -> str | None:
        """Give a file's path relative to the scene's folder, which may climb; None if it cannot."""
        assert found.folder is not None
        folder = found.folder
        if not folder.is_relative_to(self._root):
            alias = self._alias_of.get(folder)
            name = os.path.normpath(found.name)
            if name.startswith("../"):
                return None
            if alias is None:
                # Somebody's own file in a folder of POV-Ray's.
                alias = f"{RESERVED}/{len(self._alias_of) + 1}"
                self._alias_of[folder] = alias
                self._layout.libraries.append(alias)
            return f"{alias}/{name}"
        return os.path.relpath(os.path.normpath(found.path), self._root)

    def _is_foreign(self, path: Path) -> bool:
        return not Path(os.path.realpath(path)).is_relative_to(self._root)

    # ------------------------------------------------------------ words

    def _complain(self, need: Need, what: str) -> None:
        if need.hint:
            what = f"{what}; {need.hint}"
        if need.certain:
            self._faults.append(self._fault(need, what))
        else:
            self._note(need, what)

    def _fault(self, need: Need, what: str) -> SceneFault:
        verb, _ = _VERBS[need.kind]
        return SceneFault(f"{verb} {need.name}, {what}", file=need.file, line=need.line or None)

    def _note(self, need: Need, what: str) -> None:
        _, verb = _VERBS[need.kind]
        note = f"{_where(need)} may {verb} {need.name}, {what}."
        if note not in self._layout.notes:
            self._layout.notes.append(note)

    def _raise_faults(self) -> None:
        if not self._faults:
            return
        first, *others = self._faults
        if not others:
            raise first
        more = ", ".join(f"{fault.file}:{fault.line}" for fault in others[:_MAX_LISTED])
        raise SceneFault(
            f"{first.message} (likewise: {more})", file=first.file, line=first.line
        ) from None

    # ------------------------------------------------------------ the end

    def _finish(self) -> Layout:
        layout = self._layout
        if any(place.startswith(f"{RESERVED}/") for place in self._places) and os.path.lexists(
            self._root / RESERVED
        ):
            raise SceneFault(f"{self._root / RESERVED} is in the way of files from elsewhere")
        layout.up = max((place.split("/").count("..") for place in self._places), default=0)
        prefix = "/".join(self._root.parts[len(self._root.parts) - layout.up :])
        foreign: list[str] = []
        for place, (path, need) in self._places.items():
            name = _checked(os.path.normpath(f"{prefix}/{place}" if prefix else place), need)
            layout.needed[name] = path
            if os.path.realpath(self._root / place) != os.path.realpath(path):
                layout.elsewhere[name] = path
            if self._is_foreign(path):
                foreign.append(f"{os.path.realpath(path)} ({_where(need)})")
        if foreign:
            layout.notes.append(f"Taken along from outside the folder: {_listed(foreign)}.")
        shown = layout.notes[:_MAX_LISTED]
        if len(layout.notes) > len(shown):
            shown.append(f"{len(layout.notes) - len(shown)} more places name files not found.")
        layout.notes = shown
        return layout


def _where(need: Need) -> str:
    return f"{need.file}:{need.line}" if need.line else need.file


def _checked(name: str, need: Need) -> str:
    try:
        return check_path(name)
    except BadValue as error:
        raise SceneFault(
            f"the file name {name!r} {error}; rename it", file=need.file, line=need.line or None
        ) from None


def _listed(names: Sequence[str]) -> str:
    shown = [presentable(name) for name in names[:_MAX_LISTED]]
    if len(names) > _MAX_LISTED:
        shown.append(f"{len(names) - _MAX_LISTED} more")
    return ", ".join(shown)
