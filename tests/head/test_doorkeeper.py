from __future__ import annotations

from contextlib import ExitStack
from ipaddress import ip_network

import pytest

from clusterray.head import doorkeeper
from clusterray.head.doorkeeper import MAX_WAITING, Doorkeeper, is_loopback, site_of


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def waits(keeper: Doorkeeper, address: str, times: int) -> list[float | None]:
    found = []
    for _ in range(times):
        with keeper.wrong_secret(address) as wait_s:
            found.append(wait_s)
    return found


def test_each_wrong_secret_of_an_address_waits_longer_up_to_an_end() -> None:
    assert waits(Doorkeeper(), "192.0.2.1", 6) == [0.2, 0.4, 0.8, 1.6, 3.0, 3.0]


def test_addresses_do_not_pay_for_each_other() -> None:
    keeper = Doorkeeper()
    waits(keeper, "192.0.2.1", 5)
    assert waits(keeper, "192.0.2.2", 1) == [0.2]


def test_an_ipv6_host_cannot_choose_itself_out_of_it() -> None:
    keeper = Doorkeeper()
    waits(keeper, "2001:db8::1", 5)
    assert waits(keeper, "2001:db8::2", 1) == [3.0]
    assert waits(keeper, "2001:db8:0:1::1", 1) == [0.2]


def test_a_wrong_secret_is_forgotten_in_time() -> None:
    clock = Clock()
    keeper = Doorkeeper(clock=clock)
    waits(keeper, "192.0.2.1", 5)
    clock.now += 601
    assert waits(keeper, "192.0.2.1", 1) == [0.2]


def test_only_so_many_wait_at_a_time() -> None:
    keeper = Doorkeeper()
    with ExitStack() as stack:
        for _ in range(MAX_WAITING):
            assert stack.enter_context(keeper.wrong_secret("192.0.2.1")) is not None
        assert waits(keeper, "192.0.2.1", 2) == [None, None]
        assert waits(keeper, "192.0.2.2", 1) == [0.2]
    assert waits(keeper, "192.0.2.1", 1) == [3.0]


def test_a_flood_of_addresses_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorkeeper, "MAX_ADDRESSES", 10)
    keeper = Doorkeeper()
    for number in range(50):
        waits(keeper, f"192.0.2.{number}", 1)
    assert len(keeper._failures) == 10


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_whom_an_address_belongs_to(address: str, site: str) -> None:
    assert site_of(address) == site


@pytest.mark.parametrize(
    ("address", "taken"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.168.7.200", True),
        ("::ffff:192.168.7.200", True),
        ("192.168.8.1", False),
        ("2001:db8::1", False),
        ("nonsense", False),
    ],
)
def test_a_plain_head_takes_loopback_and_the_named(address: str, taken: bool) -> None:
    keeper = Doorkeeper((ip_network("192.168.7.0/24"),))
    assert keeper.may_knock(address) == taken
    assert Doorkeeper().may_knock(address), "over TLS all may"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.5", True), ("::1", True), ("0.0.0.0", False), ("", False)],
)
def test_loopback_is_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
