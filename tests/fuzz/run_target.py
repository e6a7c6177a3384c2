"""One target under the fuzzer, in a process of its own; scripts/fuzz starts it, and reads its end.

    python -m tests.fuzz.run_target NAME fuzz ROOM CORPUS [SEEDS] [libFuzzer's switches]
    python -m tests.fuzz.run_target NAME lines FOLDER...

``fuzz`` puts what reaches something new into CORPUS, and its files into ROOM, which is for whoever
started it to remove: the fuzzer ends its process without a word. ``lines`` runs every file of the
folders once and writes, as JSON, which lines were reached of the functions that were entered.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final

from tests.fuzz.sources import SOURCES

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

LONGEST_S: Final = 1.0
"""CPU seconds that one input may take, instrumented; more is a finding."""
_ROOM: Final = Path("/dev/shm")


class TooSlow(AssertionError):
    """An input took longer than any may."""


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Make a folder, in memory where the machine has one for that."""
    return tempfile.TemporaryDirectory(
        prefix="clusterray-fuzz-", dir=_ROOM if _ROOM.is_dir() else None
    )


def run_one(target: Target, data: bytes, folder: Path) -> None:
    """Try one input; raises what is a finding, TooSlow among it."""
    begun = time.process_time()
    target.try_one(data, folder)
    took = time.process_time() - begun
    if took > LONGEST_S:
        raise TooSlow(f"{took:.1f} s of CPU for {len(data)} bytes")


def _fuzz(name: str, room: Path, words: Sequence[str]) -> None:
    import atheris

    # What is fuzzed is instrumented as it is imported, so it is imported here and not above; and
    # nothing else, for what is instrumented is several times slower.
    with atheris.instrument_imports(include=_modules(SOURCES[name])):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    _hint_rarely()
    atheris.Setup(
        [name, f"-max_len={target.longest}", *words], lambda data: run_one(target, data, room)
    )
    atheris.Fuzz()


def _modules(sources: Sequence[str]) -> list[str]:
    return [f"clusterray.{source.removesuffix('.py').replace('/', '.')}" for source in sources]


def _hint_rarely() -> None:
    """Have one unknown word in sixteen looked up in difflib, which takes most of the time else."""
    from clusterray.povray import ini, job_file
    from clusterray.povray.option_table import nearest

    def sometimes(word: str, known: Iterable[str]) -> str | None:
        return nearest(word, known) if len(word) % 16 == 0 else None

    for module in (ini, job_file):
        vars(module)["nearest"] = sometimes


# ---------------------------------------------------------------- lines reached


def _reached(name: str, folders: Sequence[str]) -> None:
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    package = find_spec("clusterray")
    assert package is not None
    assert package.submodule_search_locations
    root = Path(package.submodule_search_locations[0])
    wanted = {str(root / source): source for source in SOURCES[name]}
    seen: dict[str, set[int]] = {source: set() for source in SOURCES[name]}

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        source = wanted.get(frame.f_code.co_filename)
        if source is None:
            return None
        if event == "line":
            seen[source].add(frame.f_lineno)
        return trace

    inputs = [path for folder in folders for path in sorted(Path(folder).iterdir())]
    with scratch() as folder:
        sys.settrace(trace)
        for path in inputs:
            target.try_one(path.read_bytes(), Path(folder))
        sys.settrace(None)
    lines = {source: _lines_of(root / source, seen[source]) for source in SOURCES[name]}
    found = {
        source: {
            "reached": len(seen[source] & lines[source]),
            "lines": len(lines[source]),
            "missed": sorted(lines[source] - seen[source]),
        }
        for source in SOURCES[name]
    }
    json.dump({"inputs": len(inputs), "sources": found}, sys.stdout)


def _lines_of(path: Path, seen: set[int]) -> set[int]:
    """Give the lines of the functions that were entered; others are not this target's."""
    module = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    found: set[int] = set()
    for code in _functions(module):
        lines = {line for _, _, line in code.co_lines() if line is not None}
        lines.discard(code.co_firstlineno)
        if lines & seen:
            found |= lines
    return found


def _functions(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & 0x2:  # CO_NEWLOCALS: a function, not a class's body
                yield constant
            yield from _functions(constant)


if __name__ == "__main__":
    _name, _what, *_words = sys.argv[1:]
    if _what == "fuzz":
        _fuzz(_name, Path(_words[0]), _words[1:])
    else:
        _reached(_name, _words)
