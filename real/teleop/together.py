"""Two devices of one person: one moves the robot, the keyboard of the terminal beside it ends episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from policies.spec import Spec
from real.robot import RobotInfo
from real.teleop.source import Input, Source, Status


class Together:
    """See :class:`real.teleop.source.Source`.

    Args:
        main: Moves the robot.
        keys: Whose events count, too; its motion does not.
    """

    def __init__(self, main: Source, keys: Source) -> None:
        self.main, self.keys = main, keys
        self.name, self.stale_s = f"{main.name} and {keys.name}", main.stale_s
        moving = ("forward", "up, down", "turn", "choose", "speed", "gripper")
        self.help: Mapping[str, str] = {**main.help, **{k: v for k, v in keys.help.items() if not v.startswith(moving)}}
        self.held = bool(getattr(main, "held", True))
        self.notes: tuple[str, ...] = tuple(getattr(main, "notes", ()))

    def attach(self, spec: Spec, info: RobotInfo) -> None:
        """See :class:`real.teleop.source.Source`."""
        self.main.attach(spec, info)
        self.keys.attach(spec, info)

    def join(self, telemetry: str, operator: str, token: str, latch: str) -> None:
        """Tell the device that shows the run where it is."""
        join = getattr(self.main, "join", None)
        if join is not None:
            join(telemetry, operator, token, latch)

    def poll(self) -> Input:
        """See :class:`real.teleop.source.Source`."""
        events = self.keys.poll().events
        told = getattr(self.main, "told", None)
        if told is not None:
            for event in events:
                told(event)
        value = self.main.poll()
        return replace(value, events=(*value.events, *events)) if events else value

    def feedback(self, cue: str) -> None:
        """See :class:`real.teleop.source.Source`."""
        self.main.feedback(cue)
        self.keys.feedback(cue)

    def show(self, status: Status) -> None:
        """See :class:`real.teleop.source.Source`."""
        self.main.show(status)

    def close(self) -> None:
        """See :class:`real.teleop.source.Source`."""
        try:
            self.main.close()
        finally:
            self.keys.close()
