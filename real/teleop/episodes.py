"""Episodes of a person: when one begins, what it is worth, what is recorded of it, and what the person is told.

In a twin the world begins anew after each, and recording begins with the first motion; at a robot a person puts things back and
says ``start``. A person's long pause is no part of a demonstration: nothing is recorded while they have the robot stand still.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from real.beside import Operator
from real.robot import Observation
from real.teleop.source import Status
from real.teleop.takeover import Takeover

_SHOW_S = 0.1
OUTCOMES = ("success", "failure", "discard")


class EpisodeRecorder(Protocol):
    """What keeps the episodes (``real.recorder.Recorder`` of a person's session)."""

    def reading(self, reading: Observation) -> None:
        """Take a reading of a tick."""
        ...

    def step(self, reading: Observation, action: np.ndarray, taken: bool) -> None:
        """Take a policy step, its action (Da,)."""
        ...

    def ended(self, reading: Observation) -> None:
        """Note that the robot's episode is over."""
        ...

    def begin(self, task: str | None = None) -> None:
        """Begin an episode."""
        ...

    def save(self, success: bool | None = None) -> None:
        """End the open episode and keep it."""
        ...

    def discard(self) -> None:
        """End the open episode and drop it."""
        ...


class Runs(Protocol):
    """What a session tells of the runtime."""

    @property
    def state(self) -> str:
        """The present state's name."""
        ...

    @property
    def cause(self) -> str:
        """Why it holds or is stopped."""
        ...


class Episodes:
    """Stands beside the runtime as operator and recorder of a person's session; see ``real.beside``.

    Args:
        takeover: The person.
        recorder: Keeps the episodes; None: nothing is recorded.
        reset: Begins the robot's next episode (twins); None: a person puts things back.
        auto: Whether an episode begins by itself with the first step; otherwise with the event ``start``.
        task: What is done, in words.
        wanted: Saved episodes after which the session is over; None: no end.
        operator: Asked as well; None: nobody else.
        say: Told how episodes ended, a line each.
        clock: Monotonic seconds.

    Attributes:
        counts: Outcome -> episodes.
        open: Whether an episode goes on.
        over: Whether the session is to end.
        steps: Policy steps of the open episode that were recorded or would have been.
        runtime: Whose state is shown; set it.
        speed: Of the motion, as the runtime has it.
    """

    def __init__(
        self, takeover: Takeover, recorder: EpisodeRecorder | None = None, *, reset: Callable[[], None] | None = None, auto: bool = True,
        task: str = "", wanted: int | None = None, operator: Operator | None = None, say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.takeover, self.recorder, self.task, self.wanted, self.auto = takeover, recorder, task, wanted, auto
        self._reset, self._operator, self._say, self._clock = reset, operator, say, clock
        self.counts: Counter[str] = Counter()
        self.open = self.over = False
        self.steps, self.line = 0, ""
        self.runtime: Runs | None = None
        self._by_hand = 0  # steps of the open episode
        self._due = False  # the world is to begin anew
        self._left: int | None = None  # the robot's number of the episode that is over; steps of it are none
        self._number: int | None = None  # of the newest reading
        self.speed = 1.0
        self._shown: tuple[float, Status] | None = None
        if not auto and takeover.policy:
            takeover.take()  # nothing moves before the first start

    @property
    def saved(self) -> int:
        """Episodes that were kept."""
        return self.counts["success"] + self.counts["failure"]

    def poll(self) -> Sequence[tuple[str, float]]:
        """See :class:`real.beside.Operator`; the device is asked here, every tick."""
        wishes: list[tuple[str, float]] = []
        if self._operator is not None:
            self._operator.speed = self.speed
            wishes = list(self._operator.poll())
        for event in self.takeover.poll():
            if event in ("hold", "resume", "stop"):
                wishes.append((event, 0.0))
            elif event == "quit":
                self.over = True
            elif event == "start":
                self._begin()
            else:
                self._finish(event)
        if any(wish in ("hold", "stop") for wish, _ in wishes):
            self.takeover.jog.rest()  # what went on by itself does not go on when the hold is over
        if self.takeover.clutch and getattr(self.takeover.source, "held", True):
            wishes.append(("deadman", 0.0))
        self._show()
        return wishes

    def turn(self) -> bool:
        """Do what belongs between two ticks (a twin's reset); returns whether the session is over."""
        if self._due:
            self._due = False
            if self._reset is not None and not self.over:
                self._reset()
        return self.over

    def reading(self, reading: Observation) -> None:
        """See :class:`real.beside.StepRecorder`."""
        self._number = reading.episode
        if self.recorder is not None:
            self.recorder.reading(reading)

    def step(self, reading: Observation, action: np.ndarray, taken: bool) -> None:
        """See :class:`real.beside.StepRecorder`; the action is (Da,)."""
        self._number = reading.episode
        if self._left is not None:
            if reading.episode == self._left:
                return
            self._left = None
        if not self.open:
            if not self.auto:
                return
            self._begin()
        if taken and self.takeover.paused:
            return
        self.steps += 1
        self._by_hand += taken
        if self.recorder is not None:
            self.recorder.step(reading, action, taken)

    def ended(self, reading: Observation) -> None:
        """See :class:`real.beside.StepRecorder`: the robot's own end, which a twin knows."""
        if self.recorder is not None:
            self.recorder.ended(reading)
        if self.open:
            self._finish("success" if reading.success else "failure", by_robot=True)

    def close(self) -> None:
        """An episode that is still open was not finished: it is dropped."""
        if self.open:
            self._finish("discard")

    def _begin(self) -> None:
        if self.open:
            self.takeover.source.feedback("refused")
            return
        self.open, self.steps, self._by_hand = True, 0, 0
        if self.recorder is not None:
            self.recorder.begin(self.task or None)
        if self.takeover.policy and not self.auto:
            self.takeover.release()
        self.takeover.source.feedback("recording")
        self.line = f"episode {sum(self.counts.values())}: recording" if self.recorder is not None else f"episode {sum(self.counts.values())}"

    def _finish(self, outcome: str, by_robot: bool = False) -> None:
        """End the open episode as ``outcome``, one of :data:`OUTCOMES`."""
        if not self.open or outcome not in OUTCOMES:
            self.takeover.source.feedback("refused")
            return
        self.open = False
        self.counts[outcome] += 1
        if self.recorder is not None:
            self.recorder.discard() if outcome == "discard" else self.recorder.save(outcome == "success")
        if self._reset is not None:
            self._due, self._left = not by_robot, self._number
        self.takeover.release()
        if self._reset is None and self.takeover.policy:
            self.takeover.take()  # a person puts things back: the policy waits for the next start
        kept = "dropped" if outcome == "discard" else outcome
        self.line = f"episode {sum(self.counts.values()) - 1}: {kept}, {self.steps} steps, {self._by_hand} by hand"
        self._say(self.line)
        self.takeover.source.feedback("discarded" if outcome == "discard" else "saved")
        self.over |= self.wanted is not None and self.saved >= self.wanted

    def _show(self) -> None:
        now, hand = self._clock(), self.takeover
        runs = self.runtime
        status = Status(
            "idle" if runs is None else runs.state, "" if runs is None else runs.cause, hand.taken, hand.clutch, self.open and self.recorder is not None,
            sum(self.counts.values()), self.wanted, dict(self.counts), hand.jog.frame, hand.value.dial, self.task, self.line,
        )  # fmt: skip
        if self._shown is None or now - self._shown[0] >= _SHOW_S or status != self._shown[1]:
            self._shown = now, status
            hand.source.show(status)
