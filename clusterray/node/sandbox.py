"""Behind which wall POV-Ray runs: finds the one that stands on this machine, and builds it.

POV-Ray 3.7's own file restrictions do not work, so the operating system holds them: Landlock where
the kernel has it, else bubblewrap. A scene then reads its own folder and POV-Ray's files, writes
below its attempt's folder, and has no network. "main" chooses once, at the start; the threads that
render have a wall built for each start of POV-Ray. Knows nothing of leases or the network.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from clusterray.core.errors import LocalFault
from clusterray.node import landlock, launcher
from clusterray.node.folders import AttemptFolder
from clusterray.node.machine import memory_bytes
from clusterray.povray.pixel_buffer import buffer_writes

NO_WALL = "none-i-trust-every-scene"
CHOICES = ("auto", "landlock", "bubblewrap", NO_WALL)

OWN_FILES = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"),
    *("/etc/povray", "/usr/share/povray-3.7", "/usr/share/fonts/truetype/povray"),
    *("/usr/local/etc/povray", "/usr/local/share/povray-3.7", "/etc/localtime"),
)
"""What POV-Ray opens to run and to find its includes (strace of Debian's, and its default prefix);
its fonts are links to the second folder. Those that are not there are passed over."""

NICENESS = 5
"""Of every POV-Ray: whoever uses the machine besides goes first."""
YIELDING_NICENESS = 15
"""Gets about a tenth of a core where the bands' threads want all of them."""
DISPENSABLE = 500
MOST_DISPENSABLE = 1000
OPEN_FILES = 256
STACK_BYTES = 8 << 20
"""Room for each thread's stack beside the memory that the limit grants; all of it counts."""
PIXEL_BYTES = 24
"""What POV-Ray may need in one file for each pixel: 20 for a finished one, or for the picture in
its making (POV-Ray, source/base/image/image.cpp); at most 16, and little more, for the picture."""
WRITES_PER_FILE = 4
"""POV-Ray's writes in all are bounded by so many of the largest file it may write, and what it
writes of a picture that it keeps in a file."""
_MEMORY_SHARE = 10
_LEAST_LEFT = 128 << 20
_BWRAP_TRIAL_S = 20.0
_ELF_HEAD_BYTES = 1 << 16
_PT_INTERP = 3
_BWRAP = (
    *("--die-with-parent", "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net"),
    *("--cap-drop", "ALL"),
)
_NO_MORE_NAMESPACES = "--disable-userns"
_ENV = "/usr/bin/env"
_HEEDING = (_ENV, "--default-signal=TERM")
"""Put before POV-Ray, which would inherit what bubblewrap ignores."""


class Wall(Enum):
    """What stands between POV-Ray and the machine."""

    LANDLOCK = "landlock"
    BUBBLEWRAP = "bubblewrap"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one POV-Ray may use; ``cpu_s`` 0: as much as its threads can in ``wall_s``.

    ``file_bytes`` bounds each file it writes, beside what its picture needs.
    """

    memory_bytes: int
    file_bytes: int = 1 << 30
    cpu_s: float = 0.0
    wall_s: float = 172800.0

    def cpu_seconds(self, threads: int) -> int:
        """Give the CPU seconds of a POV-Ray with so many threads."""
        return math.ceil(self.cpu_s or self.wall_s * threads)

    def largest_file(self, pixels: int) -> int:
        """Give the bytes that a file may have where the whole picture has so many pixels."""
        return self.file_bytes + PIXEL_BYTES * pixels

    def all_files(self, pixels: int, block: int) -> int:
        """Give the bytes that may be written in all, for blocks of so many rows and columns."""
        return WRITES_PER_FILE * self.largest_file(pixels) + buffer_writes(pixels, block)


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start POV-Ray: the command line, and the descriptors that it inherits."""

    argv: list[str]
    pass_fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The wall of this node, and the limits besides. ``reads``: what may be read beside POV-Ray's
    own files; ``abi`` is Landlock's version and ``bwrap`` bubblewrap with its options.
    """

    wall: Wall
    limits: Limits
    reads: tuple[Path, ...] = ()
    abi: int = 0
    bwrap: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"Landlock, version {self.abi}" if self.wall is Wall.LANDLOCK else self.wall.value

    def gaps(self) -> list[str]:
        """Name what this wall leaves open that a newer kernel's would close."""
        return landlock.gaps(self.abi) if self.wall is Wall.LANDLOCK else []

    def reading(self, folder: Path) -> Sandbox:
        """Give a sandbox in which ``folder`` may be read besides: that of a scene's own files."""
        return replace(self, reads=(*self.reads, folder))

    @contextmanager
    def launch(
        self,
        argv: Sequence[str],
        folder: AttemptFolder,
        start: Path,
        *,
        threads: int,
        pixels: int,
        yields: bool = False,
        spare: bool = False,
    ) -> Iterator[Launch]:
        """Build the wall for one start of POV-Ray, which ``argv`` is, in ``folder``.

        It is to be run in ``start``. The picture has ``pixels``. With ``yields`` others compute
        first, if it is ``spare`` it goes first when memory runs out. OSError if a folder is not
        there.
        """
        orders = self._orders(threads, pixels, yields, spare)
        if self.wall is Wall.LANDLOCK:
            ruleset = landlock.make_ruleset(self.abi, self._rules(argv[0], folder))
            try:
                yield Launch(_launcher([*orders, f"--ruleset={ruleset}"], argv), (ruleset,))
            finally:
                os.close(ruleset)
        elif self.wall is Wall.BUBBLEWRAP:
            within = self._bubblewrap(argv[0], folder, start)
            yield Launch(_launcher([*orders, "--deaf"], [*within, "--", *_HEEDING, *argv]))
        else:
            yield Launch(_launcher(orders, argv))

    def status(self, code: int) -> int:
        """Give POV-Ray's return code, negative for a signal, from that of what was started."""
        if self.wall is Wall.BUBBLEWRAP and code > 128:
            return 128 - code
        return code

    def refusal(self, text: str) -> str:
        """Give the words of the wall where it could not be built; ``text`` is all that was said.

        POV-Ray's own text never begins so: its first lines are not the scene's.
        """
        if self.wall is Wall.BUBBLEWRAP and text.startswith("bwrap: "):
            return f"the wall could not be built: {text.splitlines()[0]}"
        return ""

    def _orders(self, threads: int, pixels: int, yields: bool, spare: bool) -> list[str]:
        limits = self.limits
        return [
            f"--limit=DATA:{limits.memory_bytes + threads * STACK_BYTES}",
            f"--limit=FSIZE:{limits.largest_file(pixels)}",
            f"--limit=CPU:{limits.cpu_seconds(threads)}",
            f"--limit=NOFILE:{OPEN_FILES}",
            f"--nice={YIELDING_NICENESS if yields else NICENESS}",
            f"--dispensable={MOST_DISPENSABLE if spare else DISPENSABLE}",
        ]

    def _rules(self, program: str, folder: AttemptFolder) -> Iterator[tuple[Path, int]]:
        for path in _own_files():
            yield path, landlock.READ
        for path in self.reads:
            yield path, landlock.READ
        for path in _executed(Path(program)):
            yield path, landlock.READ | landlock.EXECUTE
        yield folder.private, landlock.READ
        for path in _written(folder):
            yield path, landlock.READ_WRITE

    def _bubblewrap(self, program: str, folder: AttemptFolder, start: Path) -> Iterator[str]:
        yield from self.bwrap
        executed = [*_executed(Path(program)), Path(_ENV)]
        for path in _apart([*_own_files(), *self.reads, *executed, folder.private]):
            yield from _bound("--ro-bind", path)
        for path in _written(folder):
            yield from _bound("--bind", path)
        # Where POV-Ray is given the scene file by another name (povray.command); no /proc besides.
        yield from ("--symlink", str(start.absolute()), "/proc/self/cwd")
        yield from ("--remount-ro", "/", "--chdir", str(start.absolute()))


@dataclass(frozen=True, slots=True)
class Walls:
    """What this machine has: Landlock's version and bubblewrap's call, or why not."""

    abi: int
    no_landlock: str
    bwrap: tuple[str, ...]
    no_bubblewrap: str


def look_for_walls(choice: str = "bubblewrap") -> Walls:
    """Find out what this machine has of what ``choice``, one of CHOICES, may need.

    Bubblewrap is tried, which takes some hundredths of a second: not where Landlock will do.
    """
    abi, no_landlock = 0, ""
    try:
        abi = landlock.abi()
    except landlock.NoLandlock as reason:
        no_landlock = str(reason)
    if choice == "bubblewrap" or (choice == "auto" and not abi):
        bwrap, no_bubblewrap = _try_bubblewrap()
    else:
        bwrap, no_bubblewrap = (), "it was not tried"
    return Walls(abi, no_landlock, bwrap, no_bubblewrap)


def choose_sandbox(choice: str, walls: Walls, limits: Limits, reads: tuple[Path, ...]) -> Sandbox:
    """Give the sandbox that ``choice``, one of CHOICES, means here; LocalFault if there is none."""
    if choice == NO_WALL:
        return Sandbox(Wall.NONE, limits, reads)
    if choice in ("auto", "landlock") and walls.abi:
        return Sandbox(Wall.LANDLOCK, limits, reads, abi=walls.abi)
    if choice in ("auto", "bubblewrap") and walls.bwrap:
        return Sandbox(Wall.BUBBLEWRAP, limits, reads, bwrap=walls.bwrap)
    missing = []
    if choice in ("auto", "landlock"):
        missing.append(f"Landlock: {walls.no_landlock}")
    if choice in ("auto", "bubblewrap"):
        missing.append(f"bubblewrap: {walls.no_bubblewrap}")
    raise LocalFault(
        "there is no wall here to run POV-Ray behind, and a scene could read and write all that "
        f"this user can. {'; '.join(missing)}. Install bubblewrap (Debian: apt install bubblewrap),"
        f" or say `sandbox: {NO_WALL}` (CLUSTERRAY_SANDBOX, --sandbox)"
    )


def memory_for_povray(wanted: int) -> int:
    """Give the memory limit; ``wanted`` 0: what the machine has, but for a tenth or 128 MiB."""
    if wanted:
        return wanted
    usable = memory_bytes()
    return max(usable // 2, usable - max(usable // _MEMORY_SHARE, _LEAST_LEFT))


def _launcher(orders: Sequence[str], argv: Sequence[str]) -> list[str]:
    script = str(Path(launcher.__file__).resolve())
    return [sys.executable, "-I", "-S", script, *orders, str(os.getpid()), *argv]


def _own_files() -> list[Path]:
    return [path for path in map(Path, OWN_FILES) if path.exists()]


def _executed(program: Path) -> list[Path]:
    """Give what is executed when POV-Ray is: the program, and what loads it into memory."""
    if not program.exists():
        # That is for the launcher to say.
        return []
    loader = _loader(program)
    return [program, loader] if loader is not None and loader.exists() else [program]


def _loader(program: Path) -> Path | None:
    """Read the name of the loader that a program asks for (elf(5), PT_INTERP); None without one."""
    with program.open("rb") as file:
        head = file.read(_ELF_HEAD_BYTES)
    if not head.startswith(b"\x7fELF"):
        return None
    wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    try:
        (table,) = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)
        size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
        for at in range(table, table + size * count, size):
            if struct.unpack_from(order + "I", head, at) == (_PT_INTERP,):
                layout = "8xQ16xQ" if wide else "4xI8xI"
                begin, length = struct.unpack_from(order + layout, head, at)
                return Path(os.fsdecode(head[begin : begin + length].rstrip(b"\0")))
    except struct.error:
        pass
    return None


def _written(folder: AttemptFolder) -> tuple[Path, ...]:
    """Give the folders in which POV-Ray writes; not that of its HOME and its INI file."""
    return (folder.scene, folder.temp, folder.picture.parent)


def _apart(paths: Sequence[Path]) -> Iterator[Path]:
    """Give the paths that lie below no other: what is bound read-only takes no further one."""
    for path in dict.fromkeys(path.absolute() for path in paths):
        if not any(other in path.parents for other in paths):
            yield path


def _bound(how: str, path: Path) -> tuple[str, str, str]:
    return how, str(path.resolve()), str(path.absolute())


def _try_bubblewrap() -> tuple[tuple[str, ...], str]:
    """Give bubblewrap's call with the options it takes here, or else why it does not work."""
    program = shutil.which("bwrap")
    if program is None:
        return (), "bwrap is not installed"
    said = ""
    for options in ((*_BWRAP, _NO_MORE_NAMESPACES), _BWRAP):
        call = (program, *options)
        try:
            done = subprocess.run(
                _launcher(["--deaf"], [*call, "--ro-bind", "/", "/", "--", *_HEEDING, "true"]),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_BWRAP_TRIAL_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return (), f"bwrap cannot be run: {error}"
        if done.returncode == 0:
            return call, ""
        said = done.stderr.decode("utf-8", "replace").strip()
    return (), f"it does not work here ({said})"
