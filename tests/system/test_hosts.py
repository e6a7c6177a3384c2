"""Head, nodes and submitter on hosts of their own: what the README's three machines do."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from clusterray.wire.trust import JoinToken
from tests.system.harness import (
    NO_CONFIG,
    Process,
    differing_pixels,
    needs_povray,
    plain_povray,
)
from tests.system.hosts import hosts
from tests.system.test_farm import QUICK, scene_in

pytestmark = [needs_povray, pytest.mark.slow]


def test_a_picture_from_three_hosts_through_two_open_passive_ports(tmp_path: Path) -> None:
    scene = scene_in(tmp_path / "scene", QUICK)
    size = ("+W97", "+H260", "+A0.3")
    state = tmp_path / "state"
    running: list[Process] = []
    with hosts(["head", "one", "two", "desk"]) as (head_host, one, two, desk):
        try:
            words = ["--state", str(state), "--listen", "0.0.0.0", "--advertise", head_host.address]
            words += ["--passive-ports", "47001-47002"]
            head = Process("clusterray.cli.server", [*NO_CONFIG, *words], prefix=head_host.prefix)
            running.append(head)
            head.out.wait_for("ready ")
            token = JoinToken.decode((state / "submit.token").read_text())
            assert token.host == head_host.address
            for host in (one, two):
                words = ["--join", str(state / "node.token"), "--threads", "1"]
                words += ["--name", host.name, "--work", str(tmp_path / host.name)]
                node = Process("clusterray.cli.node", [*NO_CONFIG, *words], prefix=host.prefix)
                running.append(node)
                node.err.wait_for("joined the farm")
            words = ["--join", token.encode(), str(scene), "-o", "out.png", "--", *size]
            submit = Process("clusterray.cli.submit", words, cwd=tmp_path, prefix=desk.prefix)
            running.append(submit)
            assert submit.wait() == 0, submit.err.seen
        finally:
            for process in reversed(running):
                if process.popen.poll() is None:
                    process.signal(signal.SIGTERM)
                process.stop()
    plain = plain_povray(scene, tmp_path / "plain.png", "+Iroom.pov", *size, "+FN8")
    assert differing_pixels(plain, tmp_path / "out.png") == 0
