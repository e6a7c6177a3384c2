"""``clusterray-node``: settings, logging, signals and exit codes around ``node.daemon.run_node``.

Main thread, and the thread "signals". No logic of the node.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from clusterray.cli.notify import READY, STOPPING, notify
from clusterray.cli.settings import daemon_settings, node_settings
from clusterray.cli.settings_table import node_table
from clusterray.cli.shell import StopSignals, run_command, say_on_stdout, start_logging
from clusterray.node.daemon import run_node
from clusterray.node.stop import StopFlag

PROGRAM = "clusterray-node"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGTERM or SIGINT; give the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return run_command(PROGRAM, lambda: _serve(words))


def _serve(words: Sequence[str]) -> int:
    resolved = daemon_settings(node_table(os.environ), words, os.environ, say_on_stdout)
    if resolved is None:
        return 0
    settings = node_settings(resolved)
    start_logging(str(resolved["log_level"]))
    with StopFlag() as stop, StopSignals(lambda: _begin_stop(stop), stop.request):
        return run_node(settings, stop=stop, ready=_say_ready)


def _say_ready() -> None:
    notify(READY)


def _begin_stop(stop: StopFlag) -> None:
    notify(STOPPING)
    stop.request()


if __name__ == "__main__":
    sys.exit(main())
