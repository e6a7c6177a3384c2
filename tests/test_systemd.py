"""The systemd units: what a drain, a crash and a POV-Ray inside need, how little they expose, and
their form.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import stat
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from clusterray.node.settings import NodeSettings

ROOT = Path(__file__).resolve().parents[1]
UNITS = sorted((ROOT / "systemd").glob("*.service"))
NODE = ROOT / "systemd" / "clusterray-node.service"
DROP_IN = ROOT / "systemd" / "clusterray-node-bubblewrap.conf"
Unit = dict[str, list[str]]


def parse(text: str) -> Unit:
    """Read a unit as systemd does: a key may stand more than once, so each has a list of values."""
    unit: Unit = defaultdict(list)
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and line[0] not in "#;":
            key, _, value = line.partition("=")
            unit[f"{section}.{key}"].append(value)
    return dict(unit)


@pytest.fixture(params=UNITS, ids=lambda path: path.stem)
def unit(request: pytest.FixtureRequest) -> Unit:
    path: Path = request.param
    return parse(path.read_text(encoding="utf-8"))


def one(unit: Unit, key: str) -> str:
    (value,) = unit[key]
    return value


def test_both_daemons_have_a_unit() -> None:
    assert [path.name for path in UNITS] == ["clusterray-node.service", "clusterray-server.service"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Service.Type", "notify"),
        ("Service.NotifyAccess", "main"),
        ("Service.KillMode", "mixed"),
        ("Service.Restart", "on-failure"),
        ("Service.RestartPreventExitStatus", "2"),
        ("Unit.StartLimitIntervalSec", "0"),
        ("Service.User", "clusterray"),
        ("Service.Group", "clusterray"),
        ("Service.NoNewPrivileges", "yes"),
        ("Service.CapabilityBoundingSet", ""),
        ("Service.ProtectSystem", "strict"),
        ("Service.ProtectHome", "yes"),
        ("Service.PrivateTmp", "yes"),
        ("Install.WantedBy", "multi-user.target"),
    ],
)
def test_both_say(unit: Unit, key: str, value: str) -> None:
    assert one(unit, key) == value


def test_a_restart_waits_a_moment(unit: Unit) -> None:
    assert 1 <= int(one(unit, "Service.RestartSec")) <= 30


def test_stopping_leaves_time_to_drain(unit: Unit) -> None:
    default = {field.name: field.default for field in dataclasses.fields(NodeSettings)}["drain_s"]
    assert isinstance(default, float)
    # Beside the drain: the tile's upload, and POV-Ray's end.
    assert int(one(unit, "Service.TimeoutStopSec")) >= default + 20


def test_state_lies_below_one_folder_and_apart(unit: Unit) -> None:
    role = "node" if "clusterray-node" in one(unit, "Service.ExecStart") else "head"
    assert one(unit, "Service.StateDirectory") == f"clusterray/{role}"


def test_the_program_is_where_the_installer_puts_it(unit: Unit) -> None:
    installer = (ROOT / "scripts" / "lib" / "install.sh").read_text(encoding="utf-8")
    prefix = re.search(r"^PREFIX=(\S+)$", installer, re.MULTILINE)
    assert prefix is not None
    assert one(unit, "Service.ExecStart").startswith(f"{prefix[1]}/venv/bin/clusterray-")


def test_the_program_is_a_command_of_ours(unit: Unit) -> None:
    command = Path(one(unit, "Service.ExecStart").split()[0]).name
    assert f"\n{command} = " in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_sockets_of_ftp_control_and_notify_are_allowed(unit: Unit) -> None:
    families = set(one(unit, "Service.RestrictAddressFamilies").split())
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} <= families


def test_povray_out_of_memory_does_not_end_the_node() -> None:
    node = parse((ROOT / "systemd" / "clusterray-node.service").read_text(encoding="utf-8"))
    assert one(node, "Service.OOMPolicy") == "continue"


def verify(path: Path) -> tuple[int, str]:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def with_a_program(path: Path, folder: Path) -> Path:
    """Copy a unit and give it a program that exists: systemd looks for it."""
    text = path.read_text(encoding="utf-8")
    program = folder / Path(one(parse(text), "Service.ExecStart").split()[0]).name
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    copy = folder / path.name
    copy.write_text(
        re.sub(r"^ExecStart=\S+", f"ExecStart={program}", text, flags=re.MULTILINE),
        encoding="utf-8",
    )
    return copy


def exposure(*files: Path, folder: Path) -> float:
    """Give what systemd-analyze makes of a unit, the first file, and its drop-ins; 10 is bare."""
    unit, *drop_ins = files
    copy = folder / unit.name
    copy.write_text(unit.read_text(encoding="utf-8"), encoding="utf-8")
    for drop_in in drop_ins:
        (folder / f"{unit.name}.d").mkdir()
        (folder / f"{unit.name}.d" / drop_in.name).write_bytes(drop_in.read_bytes())
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def test_the_landlock_calls_are_let_through_by_name() -> None:
    node = parse(NODE.read_text(encoding="utf-8"))
    allowed = " ".join(node["Service.SystemCallFilter"]).split()
    for call in ("create_ruleset", "add_rule", "restrict_self"):
        assert f"landlock_{call}" in allowed


def test_the_nodes_processes_are_counted() -> None:
    assert int(one(parse(NODE.read_text(encoding="utf-8")), "Service.TasksMax")) <= 4096


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not here; scripts/test installs it (package systemd)",
)


@needs_systemd
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_has_nothing_to_say(path: Path, tmp_path: Path) -> None:
    assert verify(with_a_program(path, tmp_path)) == (0, "")


@needs_systemd
def test_the_units_expose_next_to_nothing(tmp_path: Path) -> None:
    for path in UNITS:
        assert exposure(path, folder=tmp_path) <= 2.0


@needs_systemd
def test_the_drop_in_for_bubblewrap_opens_little(tmp_path: Path) -> None:
    assert 2.0 < exposure(NODE, DROP_IN, folder=tmp_path) <= 3.0


@needs_systemd
def test_systemd_has_nothing_to_say_about_the_drop_in(tmp_path: Path) -> None:
    copy = with_a_program(NODE, tmp_path)
    (tmp_path / f"{NODE.name}.d").mkdir()
    (tmp_path / f"{NODE.name}.d" / DROP_IN.name).write_bytes(DROP_IN.read_bytes())
    assert verify(copy) == (0, "")


@needs_systemd
def test_systemd_would_have_something_to_say(tmp_path: Path) -> None:
    copy = with_a_program(UNITS[0], tmp_path)
    copy.write_text(copy.read_text(encoding="utf-8").replace("KillMode=mixed", "KilMode=mixed"))
    assert "KilMode" in verify(copy)[1]
