"""Who may enter which room: the arrows of ARCHITECTURE.md, read from the sources themselves.

Also holds core/ to its word: no socket, thread, clock, disk, process, chance or print in it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import clusterray

PACKAGE = Path(clusterray.__file__).resolve().parent

ALLOWED: dict[str, frozenset[str]] = {
    "core": frozenset(),
    "povray": frozenset({"core"}),
    "images": frozenset({"core"}),
    "wire": frozenset({"core"}),
    "head": frozenset({"core", "povray", "images", "wire"}),
    "node": frozenset({"core", "povray", "images", "wire"}),
    "client": frozenset({"core", "povray", "images", "wire"}),
    "cli": frozenset({"core", "povray", "images", "wire", "head", "node", "client"}),
}
"""Room -> the other rooms it may import. The package itself (its version) is open to all."""

CORE_MAY_IMPORT = frozenset(
    {
        "__future__",
        "abc",
        "bisect",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "enum",
        "functools",
        "hashlib",
        "heapq",
        "itertools",
        "json",
        "math",
        "operator",
        "re",
        "string",
        "textwrap",
        "types",
        "typing",
    }
)
"""What core/ may use of the standard library: an allow-list, so that a new module is a decision."""

CORE_MUST_NOT_CALL = frozenset(
    {"open", "print", "input", "breakpoint", "exec", "eval", "compile", "__import__"}
)


@dataclass(frozen=True)
class Source:
    """One module: its dotted name, whether it is a package, and its text."""

    name: str
    is_package: bool
    text: str

    @property
    def room(self) -> str:
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else ""


def sources() -> list[Source]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["clusterray", *path.relative_to(PACKAGE).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found.append(Source(name, is_package, path.read_text(encoding="utf-8")))
    return found


def imported(source: Source) -> Iterator[tuple[int, str]]:
    """Give (line, dotted name) of everything a module imports, wherever the statement stands.

    ``from a import b`` gives ``a.b``: whether b is a module cannot be told from the source.
    """
    for node in ast.walk(ast.parse(source.text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = source.name.split(".")
                cut = node.level - 1 if source.is_package else node.level
                base = ".".join(filter(None, [*parts[: len(parts) - cut], base]))
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def wrong_arrows(source: Source) -> list[str]:
    """Name each import that enters a room the source's room may not enter."""
    wrong = []
    for line, name in imported(source):
        parts = name.split(".")
        if parts[0] != "clusterray" or len(parts) < 2:
            continue
        target = parts[1]
        if target not in ALLOWED or target == source.room:
            continue
        if target not in ALLOWED.get(source.room, frozenset()):
            wrong.append(f"{source.name}:{line} imports {name}")
    return wrong


def impurities(source: Source) -> list[str]:
    """Name each import and call by which a module could touch the world or the clock."""
    found = []
    for line, name in imported(source):
        if name.startswith("clusterray.") or name == "clusterray":
            continue
        if name.split(".")[0] not in CORE_MAY_IMPORT:
            found.append(f"{source.name}:{line} imports {name}")
    for node in ast.walk(ast.parse(source.text)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in CORE_MUST_NOT_CALL
        ):
            found.append(f"{source.name}:{node.lineno} calls {node.func.id}()")
    return found


def test_there_is_something_to_walk() -> None:
    rooms = {source.room for source in sources()}
    assert set(ALLOWED) <= rooms


def test_every_room_has_its_rule() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(ALLOWED)


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.name)
def test_arrows(source: Source) -> None:
    assert wrong_arrows(source) == []


@pytest.mark.parametrize(
    "source", [s for s in sources() if s.room == "core"], ids=lambda source: source.name
)
def test_core_is_pure(source: Source) -> None:
    assert impurities(source) == []


def test_the_head_starts_no_programs() -> None:
    # They would inherit that its threads are on one core (head.one_core).
    starters = {"subprocess", "multiprocessing", "clusterray.povray.command"}
    found = [
        f"{source.name}:{line} imports {name}"
        for source in sources()
        if source.room in {"core", "wire", "images", "head"}
        for line, name in imported(source)
        if starters & {name, name.rpartition(".")[0]}
    ]
    assert found == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("clusterray.core.farm", "import clusterray.povray.spec"),
        ("clusterray.core.farm", "from clusterray.wire import protocol"),
        ("clusterray.core.farm", "from clusterray import wire"),
        ("clusterray.core.farm", "from ..wire.link import Link"),
        ("clusterray.core.farm", "from .. import head"),
        ("clusterray.head.task_manager", "from clusterray.node.session import Session"),
        (
            "clusterray.head.task_manager",
            "def late():\n    import clusterray.client.submit",
        ),
        ("clusterray.head.web.app", "from ...node import worker"),
        ("clusterray.wire.link", "from clusterray.povray.spec import RenderSpec"),
        ("clusterray.images.tile", "from clusterray.povray import spec"),
        ("clusterray.node.worker", "from clusterray.cli.shell import run"),
        ("clusterray.client.submit", "if True:\n    from clusterray.head.server import Head"),
    ],
)
def test_the_checker_sees_a_wrong_arrow(module: str, text: str) -> None:
    assert len(wrong_arrows(Source(module, False, text))) == 1


def test_the_checker_reads_relative_imports_of_a_package() -> None:
    assert wrong_arrows(Source("clusterray.core", True, "from .farm import Farm")) == []
    assert len(wrong_arrows(Source("clusterray.core", True, "from ..head import views"))) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("clusterray.cli.node", "from clusterray.node.daemon import run_node"),
        ("clusterray.node.worker", "from clusterray.wire import link\nimport socket"),
        ("clusterray.wire.link", "from clusterray import __version__"),
        ("clusterray.head.server", "from .task_manager import TaskManager"),
        ("clusterray.core.farm", "import clusterrayish.wire"),
    ],
)
def test_the_checker_lets_a_right_arrow_pass(module: str, text: str) -> None:
    assert wrong_arrows(Source(module, False, text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import socket",
        "import os.path",
        "from time import monotonic",
        "from pathlib import Path",
        "import threading as t",
        "import random",
        "def f():\n    from random import Random",
        "import subprocess",
        "import sqlite3",
        "import logging",
        "import datetime",
        "import msgspec",
        "x = open('file')",
        "print('hello')",
        "x = __import__('socket')",
    ],
)
def test_the_checker_sees_an_impurity(text: str) -> None:
    assert len(impurities(Source("clusterray.core.farm", False, text))) == 1


def test_the_checker_lets_pure_code_pass() -> None:
    text = (
        "from collections.abc import Mapping\nfrom clusterray.core import model\nimport heapq\n"
        "class Chance: pass\ndef f(reader: Chance) -> None:\n    reader.open()\n"
    )
    assert impurities(Source("clusterray.core.farm", False, text)) == []
