"""How POV-Ray is called: its command line, its environment and its private home.

The one place where our 0-based half-open rows become POV-Ray's 1-based inclusive ones. Runs at a
node; writes only below the private folder it is given. Knows nothing of leases or sandboxes.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
from pathlib import Path
from urllib.parse import quote

from clusterray.core.errors import LocalFault
from clusterray.core.model import Rect
from clusterray.povray.option_table import DEBIAN_LIBRARY_PATHS, written
from clusterray.povray.spec import RenderSpec

ALIAS_FOLDER = "clusterray-input"
"""Below this folder stands the scene file under a name that POV-Ray can read; see _alias_name."""
_POVINI = "povray.ini"
_HOME = "home"
_TEMP = "tmp"
_IDENTITY_TIMEOUT_S = 30
_MAX_ALIAS = 240
_PATHS = frozenset({"Library_Path", "Include_Header"})


def prepare_home(private: Path, spec: RenderSpec) -> None:
    """Write the private home, the pinned INI file and the temp folder below ``private``.

    The INI file is what keeps a povray.ini beside the scene from being read again: POV-Ray takes
    the first of $POVINI, ./povray.ini and others. Raises LocalFault if the folder's name cannot be
    given to POV-Ray, OSError if it cannot be written.
    """
    _check_readable_by_povray(private)
    for name in (_HOME, _TEMP):
        (private / name).mkdir(parents=True, exist_ok=True)
    lines = [f'Library_Path="{path}"' for path in DEBIAN_LIBRARY_PATHS]
    if _needs_alias(spec):
        link = private / ALIAS_FOLDER / _alias_name(spec)
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        # The renderer's own working folder, whatever it will be.
        link.symlink_to(f"/proc/self/cwd/{_from_start(spec, spec.input)}")
        lines.append(f'Input_File_Name="{link}"')
    (private / _POVINI).write_text("\n".join(lines) + "\n", encoding="ascii")


def environment(private: Path) -> dict[str, str]:
    """Give the whole environment that POV-Ray gets, nothing of the node's own."""
    return {
        "HOME": str(private / _HOME),
        "POVINI": str(private / _POVINI),
        "POV_TEMP_DIR": str(private / _TEMP),
        "TMPDIR": str(private / _TEMP),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
    }


def render_argv(
    spec: RenderSpec,
    rect: Rect,
    *,
    threads: int,
    povray: str,
    output: Path,
    resume: bool = False,
) -> list[str]:
    """Give the command line that renders ``rect`` of the picture into ``output``.

    To be run in ``<scene>/<spec.start>`` with ``environment()`` after ``prepare_home()``. The file
    has the whole picture's size; outside ``rect`` it is black. ``resume`` takes the blocks in the
    state file beside the output for done (povray.state_file); the output itself must not be there
    then, or POV-Ray renders nothing. Raises LocalFault if the output's path cannot be given to
    POV-Ray.
    """
    _check_readable_by_povray(output)
    tile = spec.file_format.tile
    argv = [povray, "-D", "-P", "+C" if resume else "-C", "+V", "-GR", f"+WT{threads}"]
    if not _needs_alias(spec):
        argv.append(f'+I"{_from_start(spec, spec.input)}"')
    argv += [
        f'+O"{output}"',
        f"+F{tile.letter}",
        f"Bits_Per_Color={tile.bits}",
        f"Grayscale_Output={written(tile.grey)}",
        f"Output_Alpha={written(tile.alpha)}",
        f"+W{spec.width}",
        f"+H{spec.height}",
        f"+SC{rect.x0 + 1}",
        f"+EC{_end(rect.x1)}",
        f"+SR{rect.y0 + 1}",
        f"+ER{_end(rect.y1)}",
    ]
    for name, value in spec.options:
        if name == "Compression":
            # The finished JPEG's, not the tiles'.
            continue
        argv.append(f"{name}={_argument(spec, name, written(value))}")
    return argv


def povray_identity(povray: str) -> tuple[str, str]:
    """Give POV-Ray's version and build, such as ("3.7.0.10.unofficial", "gnu g++ x86_64-...").

    Nodes whose pair differs must not share a frame. Raises LocalFault if it cannot be run.
    """
    try:
        done = subprocess.run(
            [povray, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"HOME": "/nonexistent", "PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"},
            timeout=_IDENTITY_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise LocalFault(
            f"POV-Ray is not installed here: there is no {povray}; "
            "install it (Debian: apt install povray) or name it with --povray"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LocalFault(f"{povray} cannot be run: {error}") from None
    text = done.stdout.decode("utf-8", "replace")
    version = re.search(r"^POV-Ray (\d\S*)", text, re.MULTILINE)
    if version is None:
        raise LocalFault(f"{povray} does not say its version; is it POV-Ray 3.7?")
    fields = (_field(text, name) for name in ("Compiler vendor", "Compiler version"))
    target = _field(text, "Built/Optimized for") or _field(text, "Build architecture")
    return version[1], " ".join(part for part in (*fields, target) if part)


def _end(stop: int) -> str:
    """Give POV-Ray's number of the last row or column before ``stop``.

    POV-Ray takes an end of 1 for 100 % and drops the fraction of anything above.
    """
    return "1.5" if stop == 1 else str(stop)


def _argument(spec: RenderSpec, name: str, text: str) -> str:
    if name in _PATHS:
        return f'"{_from_start(spec, text)}"'
    # A declared text carries quotation marks of its own.
    return f"'{text}'" if '"' in text else text


def _from_start(spec: RenderSpec, path: str) -> str:
    return posixpath.relpath(path, spec.start)


def _needs_alias(spec: RenderSpec) -> bool:
    """Tell whether POV-Ray cannot be given the scene file's own name.

    POV-Ray 3.7 fails on letters beyond ASCII in its options, and a quotation mark ends a value.
    """
    return not spec.input.isascii() or '"' in spec.input


def _alias_name(spec: RenderSpec) -> str:
    """Give an ASCII name from which ``progress`` gets the scene file's own name back."""
    name = quote(_from_start(spec, spec.input), safe="")
    return name if len(name) <= _MAX_ALIAS else "scene.pov"


def _check_readable_by_povray(path: Path) -> None:
    text = str(path)
    if not text.isascii() or '"' in text or not text.isprintable():
        raise LocalFault(
            f"POV-Ray cannot be given the path {text}: it reads plain ASCII letters only; "
            "choose another work folder with --work"
        )


def _field(text: str, name: str) -> str:
    found = re.search(rf"^\s*{re.escape(name)}:\s*(\S.*?)\s*$", text, re.MULTILINE)
    return found[1] if found else ""
