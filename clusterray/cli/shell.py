"""What all commands share: faults to exit codes, signals to calls, logging, a closing stdout.

Main thread, but for the thread "signals" of StopSignals. Knows nothing of farms.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from clusterray.cli.process_list import hide_tokens
from clusterray.client.text import plain
from clusterray.core.errors import EXIT_INTERRUPTED, ClusterRayError, LocalFault

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_command(program: str, body: Callable[[], int]) -> int:
    """Run ``body`` and give its exit code, or that of the fault it raised, said on stderr."""
    hide_tokens(sys.argv)
    _mend_streams()
    try:
        code = body()
        return code if _flush_stdout() else LocalFault.exit_code
    except BrokenPipeError:
        # The reader of our stdout had enough: no fault, and nobody left to tell.
        _forget_stdout()
        return 0
    except ClusterRayError as fault:
        complain(program, str(fault))
        return fault.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        complain(program, os_error_sentence(error))
        return LocalFault.exit_code


def complain(program: str, sentence: str) -> None:
    """Say on stderr what went wrong, in one line that begins with the program's name."""
    with contextlib.suppress(OSError, ValueError):
        print(f"{program}: {plain(sentence)}", file=sys.stderr, flush=True)


def os_error_sentence(error: OSError) -> str:
    """Tell an OSError in words, with the file it is about."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"


def say_on_stdout(text: str) -> None:
    """Write a line on stdout at once; file names keep their bytes whatever the locale."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.flush()


def start_logging(level: str) -> None:
    """Log to stderr with the thread's name in each line.

    To be called before the FTP server starts: pyftpdlib sets logging up its own way else.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_EachLine("%(asctime)s %(levelname)-7s %(threadName)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _EachLine(logging.Formatter):
    """Puts before each line of a message what it puts before the first."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if "\n" not in record.message:
            return text
        before, _, after = text.partition(record.message)
        return "\n".join(f"{before}{line}" for line in record.message.split("\n")) + after


class StopSignals:
    """Turns SIGTERM and SIGINT into calls from a thread of their own: ``first``, then ``second``.

    The calls come from the thread "signals", never from a signal handler: a handler runs in the
    middle of whatever the main thread does, and setting an Event there that the main thread is
    waiting on can deadlock on the Event's own lock.
    """

    def __init__(self, first: Callable[[], None], second: Callable[[], None]) -> None:
        self._calls = [first, second]
        self._read_end, self._write_end = socket.socketpair()
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)

    def __enter__(self) -> StopSignals:
        self._write_end.setblocking(False)
        signal.set_wakeup_fd(self._write_end.fileno(), warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, _heard)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(-1)
        self._write_end.close()
        self._thread.join()
        self._read_end.close()

    def _listen(self) -> None:
        for call in self._calls:
            number = self._next_signal()
            if number is None:
                return
            logging.getLogger(__name__).info("got %s", signal.Signals(number).name)
            call()

    def _next_signal(self) -> int | None:
        while data := self._read_end.recv(1):
            if data[0] in _STOP_SIGNALS:
                return data[0]
        return None


def _heard(number: int, frame: FrameType | None) -> None:
    """Do nothing: the number has gone down the wake-up socket already."""


def raise_on_terminate() -> None:
    """Make SIGTERM end a command just as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _mend_streams() -> None:
    """Give a command started with closed streams something to write to."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def _flush_stdout() -> bool:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    except OSError as error:
        complain("stdout", os_error_sentence(error))
        _forget_stdout()
        return False
    return True


def _forget_stdout() -> None:
    """Point stdout at nothing, so that Python's own flush at exit cannot fail again."""
    with contextlib.suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
