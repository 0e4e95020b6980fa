"""A device whose person is a program: what tests and benchmarks teleoperate with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from policies.config import Config
from policies.spec import Spec
from real.robot import RobotInfo
from real.teleop.source import Input, Status


class ScriptedConfig(Config):
    """When the script's input counts as stale, s."""

    stale_s: float = 0.3


class ScriptedSource:
    """Says what it was last told; see :class:`real.teleop.source.Source`.

    Args:
        config: See :class:`ScriptedConfig`.
        clock: Monotonic seconds.

    Attributes:
        cues: Every cue so far.
        status: The newest status; None: none was shown.
    """

    Config = ScriptedConfig
    name = "script"
    help: Mapping[str, str] = {}

    def __init__(self, config: ScriptedConfig = ScriptedConfig(), clock: Callable[[], float] = time.monotonic) -> None:
        self.stale_s, self._clock = config.stale_s, clock
        self.cues: list[str] = []
        self.status: Status | None = None
        self.closed = False
        self.spec: Spec | None = None
        self.info: RobotInfo | None = None
        self._now, self._said, self._events = Input(), -math.inf, ()

    def say(self, value: Input) -> None:
        """Do ``value`` from now on; its events are told once, its age counts from now."""
        self._now, self._said = value, self._clock()
        self._events = (*self._events, *value.events)

    def attach(self, spec: Spec, info: RobotInfo) -> None:
        """See :class:`real.teleop.source.Source`."""
        self.spec, self.info = spec, info

    def poll(self) -> Input:
        """See :class:`real.teleop.source.Source`."""
        events, self._events = self._events, ()
        return replace(self._now, events=events, age=self._clock() - self._said)

    def feedback(self, cue: str) -> None:
        """See :class:`real.teleop.source.Source`."""
        self.cues.append(cue)

    def show(self, status: Status) -> None:
        """See :class:`real.teleop.source.Source`."""
        self.status = status

    def close(self) -> None:
        """See :class:`real.teleop.source.Source`."""
        self.closed = True
