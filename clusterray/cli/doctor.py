"""``clusterray doctor``: how what ``node.doctor`` finds is shown to people and programs.

Main thread. No logic of the node.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict

from clusterray.cli.settings import node_settings, resolve
from clusterray.cli.settings_table import node_table
from clusterray.cli.shell import say_on_stdout
from clusterray.client.text import duration_text, plain, size_text
from clusterray.core.errors import LocalFault
from clusterray.node.doctor import Findings, examine


def run_doctor(config: str | None, *, as_json: bool) -> None:
    """Examine this machine with the settings of its node; LocalFault if it cannot be one."""
    settings = node_settings(resolve(node_table(os.environ), {}, os.environ, config))
    found = examine(settings)
    if as_json:
        say_on_stdout(json.dumps(asdict(found), indent=2, ensure_ascii=True))
    else:
        for name, value in facts(found):
            say_on_stdout(f"{name + ':':<12} {plain(value)}")
    if found.faults:
        raise LocalFault("; ".join(found.faults))


def facts(found: Findings) -> list[tuple[str, str]]:
    """Give names and values for people."""
    return [
        ("machine", f"{found.cores} cores, {size_text(found.machine_memory_bytes)} of memory"),
        ("disk", f"{size_text(found.work_free_bytes)} free in {found.work}"),
        ("wall", _wall(found)),
        ("landlock", _landlock(found)),
        ("bubblewrap", found.bubblewrap or f"no: {found.no_bubblewrap}"),
        ("povray", _povray(found)),
        ("limits", _limits(found) if found.wall else "-"),
    ]


def _wall(found: Findings) -> str:
    if found.wall == "none":
        return "none: every scene can do what this user can"
    return found.wall or "none that works here"


def _landlock(found: Findings) -> str:
    if not found.landlock_abi:
        return f"no: {found.no_landlock}"
    missing = ", ".join(found.landlock_missing)
    return f"version {found.landlock_abi}" + (f"; leaves open: {missing}" if missing else "")


def _povray(found: Findings) -> str:
    if not found.povray_version:
        return found.povray or "-"
    where = "without a wall" if found.wall == "none" else "behind the wall"
    return (
        f"{found.povray}, {found.povray_version} ({found.povray_build}); "
        f"renders the test picture {where}"
    )


def _limits(found: Findings) -> str:
    return (
        f"{size_text(found.memory_limit_bytes)} of memory, "
        f"{size_text(found.file_limit_bytes)} a file beside the picture, "
        f"{duration_text(found.cpu_limit_s)} of CPU time, {duration_text(found.wall_limit_s)}, "
        f"{found.open_files} open files"
    )
