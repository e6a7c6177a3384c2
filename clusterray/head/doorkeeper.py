"""Who may knock, and how long somebody with a wrong secret waits for the answer.

Any thread may call. A secret is checked however often its address was wrong before: a class sits
behind one address, and who brings a good one is let in at once. Only who brought a wrong one waits,
on its own connection; when too many of an address wait already, the next gets no answer at all.
Knows nothing of tokens.
"""

from __future__ import annotations

import contextlib
import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

FIRST_WAIT_S: Final = 0.2
LONGEST_WAIT_S: Final = 3.0
"""Below what a client gives a head to answer its HELLO."""
FORGET_S: Final = 600.0
MAX_WAITING: Final = 16
"""Wrong secrets of one address whose answer is being delayed."""
MAX_ADDRESSES: Final = 10_000
_V6_SITE_BITS: Final = 64


def site_of(address: str) -> str:
    """Name whom an address belongs to: itself, or the /64 that an IPv6 host may choose from."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _V6_SITE_BITS), strict=False))
    return str(parsed)


def is_loopback(address: str) -> bool:
    """Tell whether this address is this machine's alone; a name is not, but for "localhost"."""
    if address == "localhost":
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last_at: float = 0.0
    waiting: int = 0


class Doorkeeper:
    """Judges addresses. ``plain_networks`` is None where all speak TLS, from wherever they come."""

    def __init__(
        self,
        plain_networks: tuple[Network, ...] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plain_networks = plain_networks
        self._clock = clock
        # Guards _failures and the records in it, which the threads of all connections share.
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def may_knock(self, address: str) -> bool:
        """Tell whether a connection from here is taken at all: over TLS each, else the named."""
        if self._plain_networks is None or is_loopback(address):
            return True
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        return any((mapped or parsed) in network for network in self._plain_networks)

    @contextlib.contextmanager
    def wrong_secret(self, address: str) -> Iterator[float | None]:
        """Note a wrong secret; gives the seconds to let pass, within, before it is answered.

        None if it gets no answer: too many of its address are waiting.
        """
        with self._lock:
            known = self._known(site_of(address))
            known.count += 1
            held = known.waiting < MAX_WAITING
            known.waiting += held
            doublings = min(known.count - 1, 16)
        try:
            yield min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**doublings) if held else None
        finally:
            with self._lock:
                known.waiting -= held

    def _known(self, site: str) -> _Failures:
        """Give the site's record, the newest now; the oldest are forgotten."""
        now = self._clock()
        known = self._failures.pop(site, None)
        if known is None or (now - known.last_at > FORGET_S and not known.waiting):
            known = _Failures()
        known.last_at = now
        self._failures[site] = known
        while len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        return known
