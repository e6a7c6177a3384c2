"""Runs POV-Ray for an attempt of a light pass: no picture, and no longer than it makes light.

As ``renderer``, which does the rest; knows nothing of leases or the network.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

from clusterray.node.renderer import ASKED_TO_END, Render, RenderFailed
from clusterray.povray.command import light_argv, photon_argv, probe_argv
from clusterray.povray.light_file import count_photons
from clusterray.povray.progress import ProgressParser

_NOT_SAVED = "Photon Warning: Could not save photon map."
"""What POV-Ray says of a map that it cannot write; if there is none, it goes on in that line."""


class LightRender(Render):
    """Runs POV-Ray to gather the radiosity samples of its rectangle, and no more.

    ``run`` leaves them in ``folder.made_light``, an empty file if the scene uses no radiosity. From
    progress alone a picture without radiosity cannot be told from a pretrace in one step that has
    met nothing but sky so far. Where it may be either, POV-Ray is stopped, asked by rendering one
    pixel, whose statistics say it, and if need be started again.
    """

    _aim: Literal["try", "ask", "gather"] = "try"
    _in_doubt = False

    def _name_blocks(self) -> None:
        """Nothing: there is no picture whose blocks could be gone on from."""

    def _run_process(self, start: Path, heard: socket.socket) -> int:
        status = super()._run_process(start, heard)
        if self._cancel or status != ASKED_TO_END or not self._in_doubt:
            return status
        self._aim, self._parser = "ask", ProgressParser()
        status = super()._run_process(start, heard)
        if self._cancel or status != 0 or not self._parser.radiosity:
            return status
        self._aim, self._parser = "gather", ProgressParser()
        return super()._run_process(start, heard)

    def _povray_argv(self) -> list[str]:
        spec, rect, threads, povray = self._spec, self._rect, self._threads, self._povray
        samples, picture = self._folder.made_light, self._folder.picture
        if self._aim == "ask":
            return probe_argv(spec, rect, threads=threads, povray=povray, output=picture)
        return light_argv(spec, rect, threads=threads, povray=povray, light=samples)

    def _enough(self) -> bool:
        if self._aim == "try" and not self._in_doubt:
            self._in_doubt = self._may_be_without()
        return self._parser.pretraced or (self._aim == "try" and self._in_doubt)

    def _may_be_without(self) -> bool:
        """Tell whether whole blocks are counted, as in a picture, and no sample is there yet."""
        block = self._spec.block_size
        whole = min(block, self._rect.width) * min(block, self._rect.height)
        first = self._parser.first_done
        if first is None or 2 * first < whole or self._parser.pretraced:
            return False
        samples = self._folder.made_light
        return not samples.exists() or samples.stat().st_size == 0

    def _check(self, status: int) -> None:
        if status != ASKED_TO_END or not self._enough():
            super()._check(status)
        self._folder.made_light.touch()


class PhotonRender(Render):
    """Runs POV-Ray to shoot the photons of a scene that saves its map, and no more.

    ``run`` leaves the map in ``folder.made_light``, an empty file if the scene uses no photons.
    POV-Ray saves it before it renders, or gathers radiosity samples, and is ended there.
    """

    def _name_blocks(self) -> None:
        """Nothing: there is no picture whose blocks could be gone on from."""

    def _povray_argv(self) -> list[str]:
        return photon_argv(
            self._spec,
            self._rect,
            threads=self._threads,
            povray=self._povray,
            output=self._folder.picture,
        )

    def _enough(self) -> bool:
        return bool(self._photons())

    def _photons(self) -> int | None:
        made = self._folder.made_light
        return count_photons(made) if made.exists() else 0

    def _check(self, status: int) -> None:
        if self._enough():
            return
        super()._check(status)
        text = self._parser.text_tail
        if self._photons() is None or _NOT_SAVED in text.splitlines():
            raise RenderFailed("node", "POV-Ray could not save its photon map", text=text)
        self._folder.made_light.touch()
