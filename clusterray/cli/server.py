"""``clusterray-server``: settings, logging, signals and exit codes around ``head.server.Head``.

Main thread, and the thread "signals". No logic of the farm.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from clusterray.cli.notify import READY, STOPPING, notify
from clusterray.cli.settings import daemon_settings, head_settings
from clusterray.cli.settings_table import head_table
from clusterray.cli.shell import StopSignals, run_command, say_on_stdout, start_logging
from clusterray.core.errors import LocalFault
from clusterray.head.server import Head

PROGRAM = "clusterray-server"
_STOPPED_AT_ONCE = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the head until SIGTERM or SIGINT; give the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return run_command(PROGRAM, lambda: _serve(words))


def _serve(words: Sequence[str]) -> int:
    resolved = daemon_settings(head_table(os.environ), words, os.environ, say_on_stdout)
    if resolved is None:
        return 0
    settings = head_settings(resolved)
    start_logging(str(resolved["log_level"]))
    head = Head(settings, alone=True)
    with StopSignals(lambda: _begin_stop(head), lambda: os._exit(_STOPPED_AT_ONCE)):
        try:
            say_on_stdout(head.start().line())
            notify(READY)
            head.run()
        finally:
            head.stop()
    return LocalFault.exit_code if head.crashed else 0


def _begin_stop(head: Head) -> None:
    notify(STOPPING)
    head.request_stop()


if __name__ == "__main__":
    sys.exit(main())
