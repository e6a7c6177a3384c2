"""Somebody on the network without a token: malformed sessions against a head, on loopback only.

    python -m tests.attack.attacker CONTROL FTP HTTP SESSIONS ADDRESSES SEED

A process of its own, of the standard library alone, so that nothing of ours polishes what it sends.
It ends after so many sessions, from so many addresses below 127.0.0.0/8, and writes, as JSON, how
many there were of each kind. A session counts when it was connected; what the head does with it is
the head's business, and nothing here waits long for an answer.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
import struct
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

THREADS: Final = 8
PATIENCE_S: Final = 2.0
GLANCE_S: Final = 0.02
"""How long an answer is waited for where there should be one."""
LINGERING: Final = 200
"""Silent and slow connections that are kept open at a time."""
HEAD: Final = "127.0.0.1"
_Socket = socket.socket


class Attacker:
    """The sessions of one thread; ``rng`` decides all of them."""

    def __init__(self, ports: tuple[int, int, int], addresses: int, rng: random.Random) -> None:
        self._control, self._ftp, self._http = ports
        self._addresses = addresses
        self._rng = rng
        self._lingering: deque[_Socket] = deque()
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        self.done: Counter[str] = Counter()

    def attack(self, sessions: int) -> None:
        """Hold so many sessions, one after the other but for those that linger."""
        kinds = list(KINDS)
        weights = [KINDS[kind][0] for kind in kinds]
        for _ in range(sessions):
            (kind,) = self._rng.choices(kinds, weights)
            with suppress(OSError, ValueError):
                KINDS[kind][1](self)
                kind = f"{kind}, to its end"
            self.done[kind] += 1
            self._nag()
        while self._lingering:
            self._lingering.popleft().close()

    # ---------------------------------------------------------------- connections

    def _source(self) -> str:
        number = self._rng.randrange(self._addresses)
        return f"127.{1 + number // 62500 % 250}.{number // 250 % 250}.{1 + number % 250}"

    def _connect(self, port: int) -> _Socket:
        return socket.create_connection(
            (HEAD, port), timeout=PATIENCE_S, source_address=(self._source(), 0)
        )

    def _secure(self, port: int) -> ssl.SSLSocket:
        sock = self._connect(port)
        try:
            return self._tls.wrap_socket(sock)
        except BaseException:
            sock.close()
            raise

    def _say(self, sock: _Socket, *parts: bytes) -> None:
        """Say it, look once for an answer, and hang up, politely or not."""
        try:
            for part in parts:
                sock.sendall(part)
            sock.settimeout(GLANCE_S)
            with suppress(TimeoutError, OSError):
                sock.recv(4096)
            if self._rng.random() < 0.3:
                # A reset instead of an end.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            sock.close()

    def _linger(self, sock: _Socket) -> None:
        self._lingering.append(sock)
        if len(self._lingering) > LINGERING // THREADS:
            self._lingering.popleft().close()

    def _nag(self) -> None:
        """Let one of those who linger say one byte more."""
        if self._lingering:
            with suppress(OSError):
                self._rng.choice(self._lingering).send(b"\x16"[:1])

    # ---------------------------------------------------------------- words

    def _noise(self, most: int = 600) -> bytes:
        return self._rng.randbytes(self._rng.randrange(1, most))

    def _damaged(self, whole: bytes) -> bytes:
        """Give it cut short, with a few bytes changed, or both."""
        changed = bytearray(whole)
        for _ in range(self._rng.randrange(4)):
            changed[self._rng.randrange(len(changed))] = self._rng.randrange(256)
        if self._rng.random() < 0.5:
            del changed[self._rng.randrange(len(changed)) :]
        return bytes(changed)

    def _hello_of_tls(self) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with suppress(ssl.SSLWantReadError):
            self._tls.wrap_bio(incoming, outgoing).do_handshake()
        return outgoing.read()

    def _message(self) -> bytes:
        role = self._rng.choice(["node", "submit", "admin"])
        hello = {
            "type": "hello",
            "role": role,
            "protocol": [1, self._rng.choice([0, 1, 2**53])],
            "secret": self._rng.choice(["", "x" * 43, "\0" * 256]),
            "uuid": f"u{self._rng.randrange(1000)}",
            "name": "n" * self._rng.randrange(300),
            "version": "1",
            "node": {"cores": 1, "threads": 1, "memory_bytes": 1}
            | {"povray_version": "3.7", "povray_build": "b", "rendering": ["a"] * 200},
        }
        other = {"type": self._rng.choice(["submit", "lease", "done", "beat", "bye", "?", ""])}
        return json.dumps(hello if self._rng.random() < 0.7 else other).encode()

    # ---------------------------------------------------------------- sessions with the head

    def knock(self) -> None:
        """Connect and go."""
        self._connect(self._rng.choice([self._control, self._ftp, self._http])).close()

    def silence(self) -> None:
        """Connect and say nothing, or a byte now and then."""
        self._linger(self._connect(self._rng.choice([self._control, self._ftp, self._http])))

    def noise(self) -> None:
        """Say what is nothing at all."""
        port = self._rng.choice([self._control, self._ftp, self._http])
        self._say(self._connect(port), self._noise())

    def half_tls(self) -> None:
        """Begin TLS, and damage it."""
        sock = self._connect(self._rng.choice([self._control, self._http]))
        hello = self._damaged(self._hello_of_tls())
        if self._rng.random() < 0.2:
            sock.sendall(hello)
            self._linger(sock)
        else:
            self._say(sock, hello, self._noise())

    def in_the_clear(self) -> None:
        """Speak our protocol without TLS."""
        body = self._message()
        self._say(self._connect(self._control), struct.pack(">I", len(body)) + body)

    def wrong_secret(self) -> None:
        """Say a whole HELLO with a secret that opens nothing."""
        body = self._message()
        self._say(self._secure(self._control), struct.pack(">I", len(body)) + body)

    def bad_frame(self) -> None:
        """Say what no frame is: noise, half of one, a length of gigabytes, deep JSON."""
        sock = self._secure(self._control)
        body = self._message()
        match self._rng.randrange(5):
            case 0:
                self._say(sock, self._noise())
            case 1:
                self._say(sock, self._damaged(struct.pack(">I", len(body)) + body))
            case 2:
                self._say(sock, struct.pack(">I", self._rng.randrange(1 << 18, 1 << 32)) + body)
            case 3:
                deep = b"[" * self._rng.randrange(60_000)
                self._say(sock, struct.pack(">I", len(deep)) + deep)
            case _:
                sock.sendall(struct.pack(">I", 200_000) + body)
                self._linger(sock)

    # ---------------------------------------------------------------- sessions with FTP

    def ftp_words(self) -> None:
        """Give commands without TLS and without a login."""
        self._say(self._connect(self._ftp), *self._commands())

    def ftp_login(self) -> None:
        """Guess logins over TLS, and try what nobody may."""
        sock = self._connect(self._ftp)
        try:
            sock.settimeout(PATIENCE_S)
            sock.recv(200)
            sock.sendall(b"AUTH TLS\r\n")
            sock.recv(200)
            secured = self._tls.wrap_socket(sock)
        except BaseException:
            sock.close()
            raise
        guess = b"USER w-%d\r\nPASS %d\r\n" % (self._rng.randrange(99), self._rng.randrange(99))
        self._say(
            secured, b"PBSZ 0\r\nPROT P\r\n", guess * self._rng.randrange(6), *self._commands()
        )

    def _commands(self) -> list[bytes]:
        chosen = self._rng.choices(FTP_COMMANDS, k=self._rng.randrange(1, 8))
        if self._rng.random() < 0.1:
            chosen.append(b"STOR " + b"A" * self._rng.randrange(100_000))
        if self._rng.random() < 0.1:
            chosen.append(self._noise())
        return [command + self._rng.choice([b"\r\n", b"\n", b"\r\n\r\n"]) for command in chosen]

    # ---------------------------------------------------------------- sessions with the page

    def http_words(self) -> None:
        """Ask the page for what it has not, over TLS or not."""
        sock = self._secure(self._http) if self._rng.random() < 0.5 else self._connect(self._http)
        request = self._rng.choice(HTTP_REQUESTS)
        self._say(sock, self._damaged(request) if self._rng.random() < 0.3 else request)


FTP_COMMANDS: Final = (
    *(
        b"USER anonymous",
        b"PASS x",
        b"PASS",
        b"USER",
        b"QUIT",
        b"NOOP",
        b"ACCT x",
        b"REIN",
        b"SYST",
    ),
    *(b"PORT 127,0,0,1,0,22", b"PORT 10,0,0,1,4,1", b"EPRT |1|10.0.0.1|22|", b"EPRT |2|::1|22|"),
    *(
        b"PASV",
        b"EPSV",
        b"EPSV ALL",
        b"EPSV 2",
        b"LIST",
        b"LIST -R /",
        b"NLST ..",
        b"MLSD /",
        b"MLST",
    ),
    *(b"REST 18446744073709551616", b"REST -1", b"RNFR /etc/passwd", b"RNTO x", b"DELE scene.tar"),
    *(
        b"RETR ../../etc/passwd",
        b"RETR /etc/passwd",
        b"STOR ../x",
        b"STOU",
        b"APPE x",
        b"CWD ..",
        b"CDUP",
    ),
    *(b"MKD x", b"RMD /", b"SITE CHMOD 777 x", b"SITE EXEC id", b"SIZE /etc/passwd", b"MDTM x"),
    *(
        b"STAT",
        b"STAT /",
        b"ABOR",
        b"\xff\xf4\xff\xf2ABOR",
        b"\xff\xf4\xff\xf2STAT",
        b"HELP",
        b"FEAT",
    ),
    *(
        b"OPTS UTF8 ON",
        b"TYPE A",
        b"TYPE I",
        b"MODE B",
        b"STRU R",
        b"ALLO 99999999999",
        b"AUTH SSL",
    ),
    *(
        b"CCC",
        b"PBSZ 1",
        b"PROT C",
        b"AUTH TLS",
        b"",
        b" ",
        b"\0",
        b"XCRC x",
        b"%s%s%n",
        b"USER " + b"u" * 5000,
    ),
)
HTTP_REQUESTS: Final = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /job/j1/preview.png HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 13\r\n\r\ntoken=cr1-AAA",
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 4\r\n\r\nffffffff\r\nx",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"GET /" + b"a" * 50_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\nCookie: " + b"\xff" * 200 + b"\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT 10.0.0.1:22 HTTP/1.1\r\n\r\n",
)
KINDS: Final[dict[str, tuple[int, Callable[[Attacker], None]]]] = {
    "knocks": (5, Attacker.knock),
    "silent and slow": (10, Attacker.silence),
    "noise": (20, Attacker.noise),
    "damaged TLS": (15, Attacker.half_tls),
    "without TLS": (10, Attacker.in_the_clear),
    "wrong secrets": (5, Attacker.wrong_secret),
    "bad frames": (8, Attacker.bad_frame),
    "FTP commands": (15, Attacker.ftp_words),
    "FTP logins": (4, Attacker.ftp_login),
    "HTTP": (8, Attacker.http_words),
}
"""The share of each kind of session, in hundredths, and what it does."""


def main() -> None:
    """Attack with several threads, and say what was done."""
    control, ftp, http, sessions, addresses, seed = map(int, sys.argv[1:])
    attackers = [
        Attacker((control, ftp, http), addresses, random.Random(seed * THREADS + number))
        for number in range(THREADS)
    ]
    threads = [
        threading.Thread(target=each.attack, args=(sessions // THREADS,)) for each in attackers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump(sum((each.done for each in attackers), Counter()), sys.stdout)


if __name__ == "__main__":
    main()
