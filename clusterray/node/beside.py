"""Small renders beside the bands, on a thread of their own: one task after the other.

The render threads add tasks and let go of their scenes, any thread may drop one, the owner thread
runs ``Beside.run``. Knows nothing of what is rendered, nor of leases.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clusterray.node.folders import AttemptFolder
from clusterray.node.renderer import Render, RenderCancelled
from clusterray.node.scene_cache import link_tree
from clusterray.povray.spec import RenderSpec
from clusterray.wire.protocol import Message

MOST_WAITING = 4
"""So many wait for the one at work."""
REASON_CHARACTERS = 300

Tell = Callable[[Message], None]
"""Gives an answer to the head, once a connection stands."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked for beside the band of ``attempt``, and the scene, which is held for it."""

    attempt: str
    words: str
    spec: RenderSpec
    scene_id: str
    scene: Path


class Beside:
    """The tasks of one thread."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        # Guards every field below; notified when a task comes or the node stops.
        self._changed = threading.Condition()
        self._waiting: deque[Task] = deque()
        self._current: Task | None = None
        self._render: Render | None = None
        self._broken_off = False
        self._spent: list[str] = []
        self._stopped = False

    # ------------------------------------------------------------ called by the render threads

    def add(self, task: Task) -> None:
        """Take a task, whose scene the caller holds until ``spent`` names it."""
        with self._changed:
            self._waiting.append(task)
            self._changed.notify_all()

    @property
    def full(self) -> bool:
        """Tell whether so many wait that no further one should be added."""
        with self._changed:
            return len(self._waiting) >= MOST_WAITING

    def spent(self) -> list[str]:
        """Give, once, the scenes of the tasks that are over: each is held one time less."""
        with self._changed:
            spent, self._spent = self._spent, []
        return spent

    # ------------------------------------------------------------ called by any thread

    def drop(self, attempt: str) -> None:
        """Nobody wants to know any more: break the task off, and tell nothing."""
        with self._changed:
            for task in [each for each in self._waiting if each.attempt == attempt]:
                self._waiting.remove(task)
                self._spent.append(task.scene_id)
            if self._current is not None and self._current.attempt == attempt:
                self._break_off()

    def stop(self) -> None:
        """Break off what is at work; the thread finds nothing more to do."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._break_off()
            self._changed.notify_all()

    def _break_off(self) -> None:
        self._broken_off = True
        if self._render is not None:
            self._render.cancel(at_once=True)

    # ------------------------------------------------------------ the thread of the tasks

    def run(self) -> None:
        """Work until the node stops."""
        while (task := self._next()) is not None:
            answer = self._answer(task)
            with self._changed:
                self._current = None
                self._spent.append(task.scene_id)
                silent = self._broken_off
            if answer is not None and not silent:
                self._tell(answer)

    def _next(self) -> Task | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or bool(self._waiting))
            if self._stopped:
                return None
            self._current, self._broken_off = self._waiting.popleft(), False
            return self._current

    @abstractmethod
    def _answer(self, task: Task) -> Message | None:
        """Do the task; give what is to be told at its end, None for nothing."""

    def _say(self, message: Message) -> None:
        """Tell something while the task goes on; nothing if it was broken off."""
        with self._changed:
            silent = self._broken_off
        if not silent:
            self._tell(message)

    def _run(self, task: Task, render: Render, folder: AttemptFolder) -> None:
        """Render in ``folder``, which is made for it; raises what Render.run does."""
        with self._changed:
            self._render = render
            if self._broken_off:
                raise RenderCancelled
        try:
            folder.create()
            link_tree(task.scene, folder.scene)
            render.run()
        finally:
            with self._changed:
                self._render = None
