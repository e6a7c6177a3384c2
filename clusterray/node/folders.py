"""The folders below a node's work folder: who makes them, what lies in them, how they go away.

Plain file system calls, any thread; a folder of an attempt belongs to the thread that has the
attempt. Knows nothing of POV-Ray's options or the network.

    <work>/lock                  held by the running daemon, holds its pid
    <work>/uuid                  the node's identity for the head
    <work>/scenes/               see node.scene_cache
    <work>/canary.json           what node.canary found out about POV-Ray; canary/ while it does
    <work>/light/                see node.light_cache
    <work>/scouts/<attempt>/     a picture of node.scout, as an attempt has it
    <work>/probes/<attempt>-<n>/ one of the two renders of node.probe, as an attempt has it
    <work>/attempts/<attempt>/
        scene/                   real folders of symbolic links; POV-Ray runs in it. At the last of
                                 a cut band the stub of the scene alone (node.stub_tile)
        private/                 HOME, POVINI and temp files of this POV-Ray
        private/light.rca        the shared radiosity samples it renders with
        private/photons.map      the shared photon map it renders with
        out/tile.png             what POV-Ray writes, full size (or .ppm, .tga, .bmp, .exr, .hdr)
        out/tile.pov-state       POV-Ray's name for its finished blocks, while it renders
        out/light.made           the samples or the map that it makes in a light pass
        blocks.pov-state         ours for the same file, until the tile is made
        origin.json              whose blocks those are (povray.state_file.Origin)
        band.png                 the tile: cropped to the band, or made light; kept until ACCEPTED
                                 or DROP
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from clusterray.povray.command import TEMP
from clusterray.povray.state_file import STATE_SUFFIX


@dataclass(frozen=True, slots=True)
class AttemptFolder:
    """The files of one attempt."""

    root: Path
    extension: str = "png"
    """Of what POV-Ray writes and of the tile, without the dot."""

    @property
    def scene(self) -> Path:
        """The scene's root as POV-Ray sees it."""
        return self.root / "scene"

    @property
    def private(self) -> Path:
        """What stands in for the home and temp folders of POV-Ray."""
        return self.root / "private"

    @property
    def temp(self) -> Path:
        """The temp folder of POV-Ray, where alone it may write in ``private``."""
        return self.private / TEMP

    @property
    def picture(self) -> Path:
        """The full-size picture that POV-Ray writes."""
        return self.root / "out" / f"tile.{self.extension}"

    @property
    def blocks(self) -> Path:
        """The finished blocks, also where POV-Ray has removed its own name of the file."""
        return self.root / f"blocks{STATE_SUFFIX}"

    @property
    def state(self) -> Path:
        """The state file that POV-Ray writes beside the picture."""
        return self.picture.with_suffix(STATE_SUFFIX)

    def name_blocks(self) -> None:
        """Have POV-Ray write into ``blocks``, which it goes on from if told to.

        It empties a state file that is there, or adds to it, and removes its name after the last
        block, before it has written the picture; what it is killed over then would be lost.
        Where the file system has no second names, only a copy of what is there is given.
        """
        self.blocks.touch()
        self.state.unlink(missing_ok=True)
        try:
            self.state.hardlink_to(self.blocks)
        except OSError:
            shutil.copyfile(self.blocks, self.state)

    @property
    def origin(self) -> Path:
        """What says whose blocks those are."""
        return self.root / "origin.json"

    @property
    def samples(self) -> Path:
        """The shared radiosity samples that POV-Ray renders with."""
        return self.private / "light.rca"

    @property
    def photon_map(self) -> Path:
        """The shared photon map that POV-Ray renders with."""
        return self.private / "photons.map"

    @property
    def made_light(self) -> Path:
        """The radiosity samples or the photon map that POV-Ray makes in a light pass."""
        return self.picture.with_name("light.made")

    @property
    def tile(self) -> Path:
        """The picture of the band alone, or the light that was made for it."""
        return self.root / f"band.{self.extension}"

    def create(self) -> None:
        """Make the folder, empty but for the places POV-Ray needs; OSError if it exists."""
        self.root.mkdir(mode=0o700, parents=True)
        for folder in (self.private, self.picture.parent):
            folder.mkdir(mode=0o700)

    def keep_only_tile(self) -> None:
        """Remove what only the render needed."""
        for folder in (self.scene, self.private, self.picture.parent):
            remove_tree(folder)
        for file in (self.blocks, self.origin):
            file.unlink(missing_ok=True)

    def keep_only_blocks(self) -> None:
        """Make the folder as ``create`` does, but for the finished blocks of a killed render.

        What the scene wrote goes too: POV-Ray parses it once more and may not find it. So does
        the file of pixels that a killed POV-Ray leaves in its temp folder.
        """
        for folder in (self.scene, self.private):
            remove_tree(folder)
        self.private.mkdir(mode=0o700)
        self.picture.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything; no fault if it is gone already."""
        remove_tree(self.root)


def remove_tree(folder: Path) -> None:
    """Remove a folder and what is below it, read-only folders too; no fault if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        try:
            shutil.rmtree(folder)
        except PermissionError:
            for base, _folders, _files in os.walk(folder):
                Path(base).chmod(0o700)
            shutil.rmtree(folder)


def empty_folder(folder: Path) -> int:
    """Make ``folder`` if need be and remove all that is in it; give the number of entries."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    entries = list(folder.iterdir())
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        else:
            entry.unlink()
    return len(entries)


def make_read_only(folder: Path) -> None:
    """Take write permission from every file and folder below ``folder``, and from itself."""
    for base, _folders, files in os.walk(folder, topdown=False):
        for name in files:
            Path(base, name).chmod(0o444)
        Path(base).chmod(0o555)
