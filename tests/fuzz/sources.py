"""The targets of the fuzzer, and the files below ``clusterray`` whose coverage guides each.

Apart from the targets, because what is instrumented must not be imported before.
"""

from __future__ import annotations

from typing import Final

SOURCES: Final[dict[str, tuple[str, ...]]] = {
    "wire": ("wire/protocol.py",),
    "job_yaml": ("povray/job_file.py", "povray/options.py"),
    "params_cfg": ("povray/job_file.py", "povray/options.py"),
    "ini": ("povray/ini.py", "povray/options.py"),
    "progress": ("povray/progress.py",),
    "archive": ("wire/archive.py", "wire/scene_names.py"),
    "packed": ("wire/packing.py",),
    "spec": ("povray/spec.py", "povray/wire_values.py"),
    "token": ("wire/trust.py",),
    "sdl": ("povray/sdl.py", "povray/statements.py", "povray/photons.py"),
    "state": ("povray/state_file.py",),
    "light": ("povray/light_file.py",),
    "tile": ("images/tile.py", "images/png_reader.py", "images/plain.py"),
    "segment": ("images/png_reader.py", "images/segments.py", "images/joined.py"),
    "glimpse": ("images/glimpse.py",),
}
