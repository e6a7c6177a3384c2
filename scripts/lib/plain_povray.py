"""Render a scene folder with POV-Ray alone, to hold the farm's picture against.

Reads the few keys of job.yaml that the examples use and types the switches a person would. On
purpose it shares no code with the package: what it checks must not check itself.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def switches(folder: Path, *, width: int = 0, height: int = 0) -> list[str]:
    """Give POV-Ray's input and picture switches for a scene folder; a size of 0 is the scene's own.

    A folder without job.yaml is started by its only .ini, or by its only .pov at 800x600.
    """
    size = [f"+W{width}", f"+H{height}"] if width and height else []
    job_file = folder / "job.yaml"
    if job_file.is_file():
        job: Mapping[str, Any] = yaml.safe_load(job_file.read_text(encoding="utf-8"))
        own_size = [f"+W{job['width']}", f"+H{job['height']}"]
        return [f"+I{job['scene']}", *(size or own_size), *_antialias(job.get("antialias"))]
    for ini in folder.glob("*.ini"):
        return [ini.name, *size]
    (scene,) = folder.glob("*.pov")
    return [f"+I{scene.name}", *(size or ["+W800", "+H600"])]


def _antialias(wish: object) -> list[str]:
    if not isinstance(wish, Mapping):
        return []
    return [f"+A{wish['threshold']}", f"+AM{wish['method']}", f"+R{wish['depth']}"]


def render(folder: Path, output: Path, picture: list[str], threads: int) -> str:
    """Run POV-Ray in the scene's folder; gives what it said. Raises CalledProcessError."""
    done = subprocess.run(
        ["povray", *picture, "-D", "-P", "+FN8", f"+WT{threads}", f"+O{output.resolve()}"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=True,
    )
    return done.stderr


def main() -> int:
    """Render the named folder to the named file; 1 with POV-Ray's last words if it cannot."""
    parser = argparse.ArgumentParser(description="Render a scene folder with plain povray.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    words = parser.parse_args()
    try:
        render(words.folder, words.output, switches(words.folder), words.threads)
    except subprocess.CalledProcessError as fault:
        print("\n".join(fault.stderr.splitlines()[-12:]), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
