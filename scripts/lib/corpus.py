"""The scenes that Debian ships with POV-Ray, and how each is started as a still.

Responsible for finding them, for what their INI files say of the first frame, and for folders in
which a scene can write. Renders nothing and knows nothing of farms.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clusterray.povray.chance import find_chance
from clusterray.povray.needs import find_needs

EXAMPLES = Path("/usr/share/doc/povray/examples")
"""Where the package povray-examples puts them."""

_MADE_FIRST = {
    "advanced/cliche/cliche.pov": ("+Isign.pov", "+Osign.png", "+FN8", "+W400", "+H400", "+A0.3"),
    "textures/patterns/slopemt_36.pov": (
        *("+Islopemt_dat_36.pov", "+Oslopemt_dat_36.png", "+FN", "+W400", "+H400"),
    ),
    "textures/patterns/slopemt_37.pov": (
        *("+Islopemt_dat_37.pov", "+Oslopemt_dat_37.png", "+FN", "+W400", "+H400"),
    ),
    "camera/mesh_camera/baking_repair_seams.pov": (
        *("+Ibaking_demo.pov", "+Oim_vase1_baked.png", "+FN", "+W64", "+H64", "+UA"),
        *("+K1", "Declare=use_baking=1"),
    ),
}
"""Scenes whose own words say that another is to be rendered first, and how."""
_OWN_OPTIONS = {"camera/mesh_camera/baking_repair_seams.pov": ("+K1",)}
_WRITES = re.compile(rb"#\s*fopen\b[^\n]*\b(?:write|append)\b")
_ENTRY = re.compile(r"^\s*Input_File_Name\s*=\s*(\S+\.pov)\s*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Scene:
    """One example: ``name`` relative to the examples, started as ``entry`` in its ``folder``.

    ``entry`` is the scene file or the INI file that names it. ``options`` make the first frame of
    a film a still. ``made_first`` are POV-Ray's words that make a file the scene needs.
    """

    name: str
    folder: Path
    entry: str
    options: tuple[str, ...] = ()
    made_first: tuple[str, ...] = ()
    writes: bool = False

    def stage(self, private: Path) -> Path:
        """Give a folder to render it in: its own, or a copy at ``private`` if it would change."""
        if not self.writes and not self.made_first:
            return self.folder
        # The copy keeps the folder's name, which some messages carry.
        copy = private / self.folder.name
        shutil.copytree(self.folder, copy)
        return copy


def find_scenes(examples: Path = EXAMPLES) -> list[Scene]:
    """Give every ``.pov`` below ``examples``, in the order of their names."""
    inis = dict(_named_by_inis(sorted(examples.rglob("*.ini"))))
    return [
        _scene(path, path.relative_to(examples).as_posix(), inis.get(path))
        for path in sorted(examples.rglob("*.pov"))
    ]


def chance_in(scene: Scene) -> list[str]:
    """Give what a scene's text, and what it includes, has of chance and of light made before.

    Whether the scene makes use of all it includes is not known.
    """
    main = scene.folder / Path(scene.name).name
    texts = find_needs(main, start=scene.folder).texts
    found = find_chance((text.name, text) for text in texts)
    return list(dict.fromkeys(each.feature for each in found))


def first_frame(ini: str) -> tuple[str, ...]:
    """Give the options that turn the film of an INI file's text into its first frame as a still.

    A still sees no frame numbers (POV-Ray, ``vfe/vfe.cpp``), so they are declared; POV-Ray lets
    the first declaration stand.
    """
    frames = int(_number(ini, "Final_Frame", "kff", 1))
    if frames <= 1:
        return ()
    begin, end = _number(ini, "Initial_Clock", "ki", 0), _number(ini, "Final_Clock", "kf", 1)
    cyclic = re.search(r"^\s*Cyclic_Animation\s*=\s*on|\+kc\b", ini, re.IGNORECASE | re.MULTILINE)
    # A film that goes round has one frame more than it renders (animationprocessing.cpp).
    last = frames + 1 if cyclic else frames
    declared = {
        "frame_number": 1.0,
        "initial_frame": 1.0,
        "final_frame": last,
        "initial_clock": begin,
        "final_clock": end,
        "clock_delta": (end - begin) / (last - 1),
    }
    words = [f"Declare={name}={value:g}" for name, value in declared.items()]
    return ("+KFI1", "+KFF1", f"+K{begin:g}", *words)


def _named_by_inis(inis: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    for ini in inis:
        found = _ENTRY.search(_text(ini))
        if found is not None:
            yield ini.parent / found[1], ini


def _scene(path: Path, name: str, ini: Path | None) -> Scene:
    return Scene(
        name=name,
        folder=path.parent,
        entry=path.name if ini is None else ini.name,
        options=(first_frame(_text(ini)) if ini else ()) + _OWN_OPTIONS.get(name, ()),
        made_first=_MADE_FIRST.get(name, ()),
        writes=_may_write(path),
    )


def _may_write(path: Path) -> bool:
    return any(_WRITES.search(file.read_bytes()) for file in (path, *path.parent.glob("*.inc")))


def _number(ini: str, name: str, switch: str, default: float) -> float:
    found = re.search(
        rf"^\s*{name}\s*=\s*([0-9.]+)|\+{switch}([0-9.]+)", ini, re.IGNORECASE | re.MULTILINE
    )
    return default if found is None else float(found[1] or found[2])


def _text(path: Path) -> str:
    return path.read_text("latin-1").replace("\r", "")
