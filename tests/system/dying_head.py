"""A head that kills itself, as a power cut would, the first time it comes to a named point.

``python -m tests.system.dying_head POINT [clusterray-server's words]``
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from clusterray.cli import server
from clusterray.core import actions as act
from clusterray.head import keeper
from clusterray.head.errands import Errands
from clusterray.head.memory import Memory
from clusterray.head.stitcher import Stitcher
from clusterray.head.task_manager import TaskManager
from clusterray.images.joined import JoinedRows


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _replace(owner: Any, name: str, new: Callable[..., None]) -> None:
    setattr(owner, name, new)


def _before(owner: Any, name: str) -> None:
    _replace(owner, name, die)


def _after(owner: Any, name: str) -> None:
    real = getattr(owner, name)

    def and_die(*words: Any, **named: Any) -> None:
        real(*words, **named)
        die()

    _replace(owner, name, and_die)


def _instead_of(action: type) -> None:
    """What the action follows from is committed; the action itself is not carried out."""
    real = Errands.run

    def run(errands: Errands, wanted: act.Action) -> None:
        if isinstance(wanted, action):
            die()
        real(errands, wanted)

    _replace(Errands, "run", run)


def _a_job_is_there_and_not_committed() -> None:
    real = Memory.commit

    def commit(memory: Memory) -> None:
        if memory._farm.jobs:
            die()
        real(memory)

    _replace(Memory, "commit", commit)


POINTS: Mapping[str, Callable[[], None]] = {
    "before a submit is committed": _a_job_is_there_and_not_committed,
    "after a submit is committed": lambda: _instead_of(act.AnswerSubmit),
    "after a lease is committed": lambda: _instead_of(act.SendLease),
    "after a tile has come": lambda: _before(keeper, "check_upload"),
    "after a tile's rename and before its commit": lambda: _after(keeper, "keep"),
    "after the commit and before the answer": lambda: _instead_of(act.SendAccepted),
    "while stitching": lambda: _after(JoinedRows, "write"),
    "after the picture's rename and before its commit": lambda: _before(
        TaskManager, "_picture_written"
    ),
    "after the picture's commit": lambda: _instead_of(act.JobDone),
    "before tiles are compared": lambda: _before(Stitcher, "compare"),
    "after light is joined and before its commit": lambda: _before(TaskManager, "_light_joined"),
}


if __name__ == "__main__":
    POINTS[sys.argv[1]]()
    sys.exit(server.main(sys.argv[2:]))
