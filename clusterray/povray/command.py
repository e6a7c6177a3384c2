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
TEMP = "tmp"
"""Below the private folder: where POV-Ray keeps the pixels of a large picture."""
LIGHT_STEP_PIXELS = 0.4
"""What the footer gives as the size of pretrace's steps; below a pixel there is no step at all."""
LIGHT_MARGIN = 20
"""A light band gathers beyond its edges, by the picture's longer side over this: as far as samples
there still colour pixels here (docs/light.md)."""
_NO_PICTURE = ("-F",)
_POVINI = "povray.ini"
_HOME = "home"
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
    for name in (_HOME, TEMP):
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
        "POV_TEMP_DIR": str(private / TEMP),
        "TMPDIR": str(private / TEMP),
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
    light: Path | None = None,
    resume: bool = False,
) -> list[str]:
    """Give the command line that renders ``rect`` of the picture into ``output``.

    To be run in ``<scene>/<spec.start>`` with ``environment()`` after ``prepare_home()``. The file
    has the whole picture's size; outside ``rect`` it is black. ``light`` is a file of radiosity
    samples to render with; the scene needs ``add_light_footer`` then. ``resume`` takes the blocks
    in the state file beside the output for done (povray.state_file); the output itself must not be
    there then, or POV-Ray renders nothing. Raises LocalFault if the output's path cannot be given
    to POV-Ray.
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
    if light is not None:
        argv += ["+RFI", f'+RF"{light}"']
    return argv


def light_argv(
    spec: RenderSpec, rect: Rect, *, threads: int, povray: str, light: Path
) -> list[str]:
    """Give the command line that writes the radiosity samples of ``rect`` to ``light``, no picture.

    ``rect`` and a little above and below it, or what is lit at its edges would be made of samples
    from one side alone. To be run like ``render_argv``'s, and to be stopped with SIGTERM once the
    samples are gathered (``ProgressParser.pretraced``): POV-Ray would go on to render the picture.
    It writes the file's end when it is stopped so. It would shade what it shows while it gathers;
    without that the samples are the same. With High_Reproducibility it would gather in parts.
    """
    area, output = _with_margin(spec, rect), light.with_suffix(".png")
    argv = render_argv(spec, area, threads=threads, povray=povray, output=output)
    return [*argv, *_NO_PICTURE, "-HR", "Radiosity_Vain_Pretrace=off", "+RFO", f'+RF"{light}"']


def photon_argv(
    spec: RenderSpec, rect: Rect, *, threads: int, povray: str, output: Path
) -> list[str]:
    """Give the command line that shoots photons and renders next to nothing.

    For a scene that saves its map (``photons.save_photons``). All are shot whatever is rendered;
    the picture keeps its size, which a scene may look at (image_width).
    """
    argv = probe_argv(spec, rect, threads=threads, povray=povray, output=output)
    return [*argv, "-A"]


def probe_argv(
    spec: RenderSpec, rect: Rect, *, threads: int, povray: str, output: Path
) -> list[str]:
    """Give the command line that renders one pixel of ``rect``, for the statistics alone."""
    pixel = Rect(rect.x0, rect.y0, rect.x0 + 1, rect.y0 + 1)
    argv = render_argv(spec, pixel, threads=threads, povray=povray, output=output)
    return [*argv, *_NO_PICTURE]


def add_light_footer(scene: Path, spec: RenderSpec) -> None:
    """Put a copy of the main file, with a footer, in place of the link to it below ``scene``.

    The footer makes POV-Ray render with the samples it loads: it gathers none before (steps of
    less than a pixel give no step; POV-Ray, source/backend/scene/view.cpp) and while it renders
    only where no sample fits. A second radiosity block keeps what the first one set and changes
    what it names (source/backend/parser/parse.cpp). At the end, so that line numbers stay.
    """
    main = scene / spec.input
    text = main.read_bytes()
    step = LIGHT_STEP_PIXELS / max(spec.width, spec.height)
    footer = (
        "\nglobal_settings { radiosity { always_sample off "
        f"pretrace_start {step:.9f} pretrace_end {step:.9f} }} }}\n"
    )
    main.unlink()
    main.write_bytes(text + footer.encode("ascii"))


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


def _with_margin(spec: RenderSpec, rect: Rect) -> Rect:
    """Give ``rect`` and the rows beside it that a light pass looks at too.

    No more than half of its own again, so that many small bands do not do the work twice.
    """
    margin = min(max(spec.width, spec.height) // LIGHT_MARGIN, rect.height // 4)
    top, bottom = max(0, rect.y0 - margin), min(spec.height, rect.y1 + margin)
    return Rect(rect.x0, top, rect.x1, bottom)


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
