"""Which POV-Ray this node has: its class for the farm, found by a test render, and its changes.

The "main" thread asks for the class, which may take seconds; a render thread asks before each
attempt whether POV-Ray is still what it was, which takes a millisecond. What was found is kept in
the work folder, so that a restart is quick. Knows nothing of the head.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clusterray.core.errors import LocalFault
from clusterray.core.model import FileFormat, PovrayClass
from clusterray.images.formats import read_tile
from clusterray.images.rows import TileFault
from clusterray.node.folders import AttemptFolder
from clusterray.node.machine import boot_id
from clusterray.node.renderer import Render, RenderCancelled, RenderFailed
from clusterray.node.sandbox import Sandbox
from clusterray.povray.canary import (
    CANARY_AREA,
    CANARY_FILE,
    INCLUDE_FOLDER,
    canary_spec,
    canary_text,
    library_digest,
    library_stamp,
)
from clusterray.povray.command import povray_identity

log = logging.getLogger(__name__)

CANARY_WITHIN_S = 60.0
"""How long the canary may take; it is under a second's work on a desktop."""
_VERSION = 1


class CanaryStopped(Exception):
    """The node is to leave, so the test was broken off."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A class, the stamp of the POV-Ray that it is of, and what the canary took."""

    stamp: str
    povray: PovrayClass
    cpu_s: float = 0.0


class PovrayWatch:
    """Knows the node's POV-Ray; ``program`` is its absolute path, ``work`` the node's folder.

    The canary renders in ``sandbox``, as every scene does.

    With ``canary`` False nothing is rendered and no library read: the class is version and build.
    """

    def __init__(
        self,
        program: str,
        work: Path,
        sandbox: Sandbox,
        *,
        canary: bool = True,
        library: Path = INCLUDE_FOLDER,
    ) -> None:
        self._program = Path(program)
        self._sandbox = sandbox
        self._folder = AttemptFolder(work / "canary")
        self._file = work / "canary.json"
        self._canary = canary
        self._library = library
        # Replaced as a whole by "main", read by the render threads.
        self._found: _Found | None = None

    def changed(self) -> bool:
        """Tell whether POV-Ray is another one than the one last tested; any thread."""
        try:
            return self._found is None or self._found.stamp != self._stamp()
        except OSError:
            return True

    @property
    def canary_cpu_s(self) -> float:
        """CPU seconds of one thread for the canary, 0 if it was not rendered."""
        return 0.0 if self._found is None else self._found.cpu_s

    def povray_class(self, stopping: Callable[[], bool] = lambda: False) -> PovrayClass:
        """Give the class, tested anew if need be.

        Raises CanaryStopped if ``stopping`` holds meanwhile, LocalFault if POV-Ray cannot be run
        or cannot render the canary.
        """
        try:
            # Before the test: what changes while it runs is seen by the next ``changed``.
            stamp = self._stamp()
        except OSError as error:
            raise LocalFault(f"{self._program} cannot be used: {error.strerror}") from None
        if self._found is None or self._found.stamp != stamp:
            self._found = self._kept(stamp) or self._test(stamp, stopping)
        return self._found.povray

    # ------------------------------------------------------------ what it is known by

    def _stamp(self) -> str:
        """Give a hash of all that the class follows from, by size and time; raises OSError.

        Of the machine it has the boot: a disk that moved to another processor, or a new system
        library after a reboot, is tested again; one without a reboot goes unseen.
        """
        program = self._program.resolve()
        info = program.stat()
        parts = [
            _VERSION,
            str(program),
            [info.st_size, info.st_mtime_ns, info.st_ino],
            boot_id(),
            self._canary,
            library_stamp(self._library) if self._canary else [],
            hashlib.sha256(canary_text()).hexdigest(),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _kept(self, stamp: str) -> _Found | None:
        """Give what an earlier run found for the same stamp, None if it found nothing usable."""
        try:
            kept = json.loads(self._file.read_text(encoding="ascii"))
            if kept["stamp"] != stamp:
                return None
            pixels = base64.b64decode(kept["pixels"], validate=True)
            povray = PovrayClass(
                version=str(kept["version"]),
                build=str(kept["build"]),
                canary=str(kept["canary"]),
                includes=str(kept["includes"]),
                pixels=pixels,
            )
            cpu_s = float(kept.get("cpu_s", 0.0))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return _Found(stamp, povray, cpu_s) if povray.canary == _canary_hash(pixels) else None

    def _keep(self, found: _Found) -> None:
        povray = found.povray
        kept = {
            "stamp": found.stamp,
            "version": povray.version,
            "build": povray.build,
            "canary": povray.canary,
            "includes": povray.includes,
            "pixels": base64.b64encode(povray.pixels).decode("ascii"),
            "cpu_s": found.cpu_s,
        }
        part = self._file.with_name("canary.part")
        try:
            part.write_text(json.dumps(kept) + "\n", encoding="ascii")
            part.replace(self._file)
        except OSError as error:
            log.warning("%s cannot be written, the next start tests anew: %s", self._file, error)

    # ------------------------------------------------------------ the test

    def _test(self, stamp: str, stopping: Callable[[], bool]) -> _Found:
        version, build = povray_identity(str(self._program))
        if not self._canary:
            return _Found(stamp, PovrayClass(version, build))
        began_at = time.monotonic()
        pixels, cpu_s = self._render(stopping)
        try:
            includes = library_digest(self._library)
        except OSError as error:
            raise LocalFault(f"POV-Ray's include files cannot be read: {error}") from None
        found = _Found(
            stamp, PovrayClass(version, build, _canary_hash(pixels), includes, pixels), cpu_s
        )
        log.info("POV-Ray %s, tested in %.1f s", found.povray, time.monotonic() - began_at)
        self._keep(found)
        return found

    def _render(self, stopping: Callable[[], bool]) -> tuple[bytes, float]:
        """Render the canary as any attempt is rendered; give its pixels, RGB, and CPU seconds."""
        folder = self._folder
        give_up_at = time.monotonic() + CANARY_WITHIN_S

        def look(_phase: str, _done: int, _total: int) -> None:
            if stopping() or time.monotonic() >= give_up_at:
                render.cancel(at_once=True)

        render = Render(
            povray=str(self._program),
            sandbox=self._sandbox,
            threads=1,
            spec=canary_spec(),
            rect=CANARY_AREA,
            folder=folder,
            on_progress=look,
        )
        try:
            folder.remove()
            folder.create()
            folder.scene.mkdir()
            (folder.scene / CANARY_FILE).write_bytes(canary_text())
            times = render.run()
            pixels = read_tile(folder.picture, FileFormat()).rows(CANARY_AREA)
        except RenderCancelled:
            if stopping():
                raise CanaryStopped from None
            raise self._fault(f"it was not done in {CANARY_WITHIN_S:.0f} s") from None
        except RenderFailed as failure:
            raise self._fault(failure.message) from None
        except TileFault as fault:
            raise self._fault(f"POV-Ray left no whole picture: {fault}") from None
        except OSError as error:
            raise LocalFault(f"the folder {folder.root} cannot be used: {error}") from None
        finally:
            with suppress(OSError):
                folder.remove()
        return pixels, times.trace_cpu_s

    def _fault(self, why: str) -> LocalFault:
        return LocalFault(
            f"{self._program} cannot render the test picture, so this node joins no farm: {why}; "
            "is POV-Ray whole? (Debian: apt install --reinstall povray povray-includes)"
        )


def _canary_hash(pixels: bytes) -> str:
    return hashlib.sha256(pixels).hexdigest()
