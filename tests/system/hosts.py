"""Several hosts on one machine: network namespaces on a switch of their own, made and removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

NETWORK = "10.213.7"
"""Only ever seen inside the namespaces; nothing of it reaches a network of this machine."""


@dataclass(frozen=True)
class Host:
    """A namespace with one address on the switch."""

    name: str
    address: str
    switch: str
    port: str

    def pull_the_cable(self) -> None:
        """Let nothing through any more; connections stand, for nobody says that they end."""
        _ip("-n", self.switch, "link", "set", self.port, "down")

    def put_the_cable_in(self) -> None:
        """Let everything through again."""
        _ip("-n", self.switch, "link", "set", self.port, "up")

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command to run it there."""
        return ("ip", "netns", "exec", self.name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def hosts(names: Sequence[str]) -> Iterator[list[Host]]:
    """Give one host for each name; skips the test where namespaces are not permitted."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    tag = f"cr{os.getpid()}"
    switch = f"{tag}-switch"
    made: list[str] = []
    try:
        try:
            _ip("netns", "add", switch)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not permitted here: {error.stderr.strip()}")
        made.append(switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        found = []
        for number, name in enumerate(names, start=1):
            host = Host(f"{tag}-{name}", f"{NETWORK}.{number}", switch, f"p{number}")
            _ip("netns", "add", host.name)
            made.append(host.name)
            _plug_in(host)
            found.append(host)
        yield found
    finally:
        for namespace in made:
            subprocess.run(["ip", "netns", "delete", namespace], check=False)


def _plug_in(host: Host) -> None:
    _ip(
        "-n",
        host.switch,
        "link",
        "add",
        host.port,
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        host.name,
    )
    _ip("-n", host.switch, "link", "set", host.port, "master", "br0", "up")
    _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", host.name, "link", "set", device, "up")
