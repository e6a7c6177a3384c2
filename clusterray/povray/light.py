"""Finds out from a scene's text whether it uses light that bands would have to share.

Radiosity samples and photon maps are made anew, and differently, for each band, which would show
as steps of light at the cuts. The reading is textual and errs towards finding light, because a
scene rendered whole is right and a scene cut wrongly is not. Runs at the submitter; reads the
scene's files, knows nothing of jobs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from clusterray.povray.sdl import strip

SharedLight: TypeAlias = Literal["radiosity", "photons"]

MAX_TEXT_BYTES = 16 << 20
_MAX_FILES = 2000

_INCLUDE = re.compile(r"#\s*include\b\s*(\"(?:\\.|[^\"\\])*\")?")
_RADIOSITY = re.compile(r"\bradiosity\s*\{")
_PHOTONS = re.compile(r"\bphotons\s*\{")
_GLOBAL_SETTINGS = re.compile(r"\bglobal_settings\s*\{")
# What only the photons block of global_settings holds; an object's own block has target and the
# like, and does nothing where the global one is missing.
_GLOBAL_PHOTON_WORDS = re.compile(r"\b(?:count|load_file|save_file|gather|autostop|jitter)\b")
_OBJECT_PHOTON_WORDS = re.compile(r"\b(?:target|reflection|refraction|collect|pass_through)\b")


def wants_shared_light(files: Iterable[Path]) -> frozenset[SharedLight]:
    """Give which of radiosity and photons the text of ``files`` turns on; unreadable ones do not.

    Comments and strings do not count; conditions and macros are taken as if they all ran.
    """
    found: set[SharedLight] = set()
    for file in files:
        found |= light_in_text(read_text(file))
    return frozenset(found)


def light_in_text(text: str) -> frozenset[SharedLight]:
    """Give which of radiosity and photons one file's text turns on."""
    bare = strip(text, keep_strings=False)
    found: set[SharedLight] = set()
    if _RADIOSITY.search(bare):
        found.add("radiosity")
    if any(_is_global_photons(bare, match) for match in _PHOTONS.finditer(bare)):
        found.add("photons")
    return frozenset(found)


def scene_texts(root: Path, start: Path, main: Path, library_paths: Sequence[Path]) -> list[Path]:
    """Give the scene's own files of text that ``main`` includes, itself first.

    Followed as POV-Ray looks for them: from ``start``, then on ``library_paths``. If an include's
    name is put together while parsing, every ``.inc`` below ``root`` is taken.
    """
    found: dict[Path, None] = {}
    waiting = [main]
    while waiting and len(found) < _MAX_FILES:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = None
        for name in _included_names(read_text(path)):
            if name is None:
                waiting += [inc for inc in _all_includes(root) if inc not in found]
                continue
            for folder in (start, *library_paths):
                candidate = Path(os.path.normpath(folder / name))
                if candidate.is_relative_to(root) and candidate.is_file():
                    waiting.append(candidate)
                    break
    return list(found)


def _is_global_photons(text: str, match: re.Match[str]) -> bool:
    block = text[match.end() : _block_end(text, match.end())]
    for settings in _GLOBAL_SETTINGS.finditer(text, 0, match.start()):
        if _block_end(text, settings.end()) > match.start():
            return True
    # A file that is included from inside global_settings has the block by itself.
    if _OBJECT_PHOTON_WORDS.search(block):
        return False
    return bool(_GLOBAL_PHOTON_WORDS.search(block)) or "spacing" in block


def _block_end(text: str, at: int) -> int:
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, at):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    return len(text)


def _included_names(text: str) -> Iterator[str | None]:
    for match in _INCLUDE.finditer(strip(text, keep_strings=True)):
        yield None if match[1] is None else match[1][1:-1]


def _all_includes(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() == ".inc")[:_MAX_FILES]


def read_text(path: Path) -> str:
    """Give the beginning of a file as text, "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            # Latin-1 takes any byte, and the words looked for are ASCII.
            return file.read(MAX_TEXT_BYTES).decode("latin-1")
    except OSError:
        return ""
