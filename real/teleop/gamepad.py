"""A gamepad through pygame (SDL): sticks move, the right shoulder is the clutch, the triggers are the gripper.

Gamepads that SDL knows have one layout whatever they are; others are read by their plain axes and buttons in the same order. One may be
plugged in or out at any time: without one the clutch is open. No window is needed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
import pydantic

from policies.config import Config
from policies.spec import InputError, Spec
from real.robot import RobotInfo
from real.teleop.source import Input, Status

#: Buttons of SDL's layout -> what they ask for.
EVENTS = {
    "a": "grip",
    "b": "discard",
    "x": "failure",
    "y": "success",
    "back": "release",
    "start": "start",
    "guide": "stop",
    "leftstick": "frame",
    "rightstick": "home",
}
_BUTTONS = ("a", "b", "x", "y", "back", "guide", "start", "leftstick", "rightstick", "leftshoulder", "rightshoulder", "dpup", "dpdown", "dpleft", "dpright")
_RUMBLE = {"taken": (0.2, 0.4, 120), "released": (0.2, 0.0, 120), "recording": (0.0, 0.6, 80), "saved": (0.6, 0.6, 200), "discarded": (0.8, 0.0, 300),
           "limit": (0.0, 0.3, 60), "stale": (1.0, 0.0, 400), "refused": (0.5, 0.0, 80)}  # fmt: skip
_LOOK_S = 1.0  # between two looks for a gamepad, where none is there


class GamepadConfig(Config):
    """Which gamepad, and its speed.

    Attributes:
        index: Of several, counted from 0.
        dial: Speed at first; the cross up and down changes it.
        rumble: Whether cues are felt.
    """

    index: pydantic.NonNegativeInt = 0
    dial: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.5
    rumble: bool = True


class GamepadSource:
    """See :class:`real.teleop.source.Source`.

    Args:
        config: See :class:`GamepadConfig`.
        clock: Monotonic seconds.

    Raises:
        InputError: if pygame is not installed.
    """

    Config = GamepadConfig
    name = "gamepad"
    stale_s = 0.25
    help: Mapping[str, str] = {
        "right shoulder (held)": "clutch: the robot follows",
        "left stick": "forward, back, left, right",
        "right stick": "up, down; yaw",
        "left shoulder (held) + sticks": "pitch and roll",
        "left trigger, right trigger": "gripper: close, open",
        "A": "gripper to its other end",
        "cross up, down": "speed",
        "Start": "begin an episode",
        "Y X B": "the episode is a success, a failure, forgotten",
        "Back": "give back to the policy",
        "sticks pressed": "left: axes of base, tool or camera; right: go home",
        "Guide": "STOP",
    }

    def __init__(self, config: GamepadConfig = GamepadConfig(), clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self._clock = config, clock
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")  # there is no window that could have the focus
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        try:
            import pygame
            from pygame._sdl2 import controller
        except ImportError as error:
            raise InputError("device gamepad needs pygame: pip install 'robopolicy[teleop]'") from error
        self._pygame: Any = pygame
        self._controllers: Any = controller
        pygame.display.init()  # SDL's events, from which it learns of plugs, want it; the dummy one has no window
        controller.init()
        pygame.joystick.init()
        self._pad: Any = None
        self._instance: int | None = None
        self._axes: dict[str, float] = {}
        self._held: set[str] = set()
        self._dial, self._events, self._closed = config.dial, [], False
        self._look_at = -1e9

    def attach(self, spec: Spec, info: RobotInfo) -> None:
        """See :class:`real.teleop.source.Source`: any robot can be moved."""

    @property
    def connected(self) -> bool:
        """Whether there is a gamepad."""
        return self._instance is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know at the beginning."""
        if not self.connected:
            self._open()
        return () if self.connected else ("no gamepad is connected yet; plug it in at any time",)

    def poll(self) -> Input:
        """See :class:`real.teleop.source.Source`."""
        if self._instance is None and self._clock() >= self._look_at:
            self._look_at = self._clock() + _LOOK_S
            self._open()
        for event in self._pygame.event.get():
            self._take(event)
        events, self._events = tuple(self._events), []
        if self._instance is None:
            return Input(events=events, dial=self._dial)
        lx, ly, rx, ry = (self._axes.get(name, 0.0) for name in ("leftx", "lefty", "rightx", "righty"))
        if "leftshoulder" in self._held:
            twist = np.array([0.0, 0.0, 0.0, lx, -ly, -rx])
        else:
            twist = np.array([-ly, -lx, -ry, 0.0, 0.0, -rx])
        grip = self._axes.get("righttrigger", 0.0) - self._axes.get("lefttrigger", 0.0)
        return Input(
            twist=np.clip(twist, -1, 1), grip=float(np.clip(grip if abs(grip) > 0.05 else 0.0, -1, 1)), clutch="rightshoulder" in self._held,
            dial=self._dial, events=events, age=0.0,
        )  # fmt: skip

    def feedback(self, cue: str) -> None:
        """See :class:`real.teleop.source.Source`: it rumbles."""
        if self._pad is not None and self.config.rumble and cue in _RUMBLE:
            low, high, ms = _RUMBLE[cue]
            self._pad.rumble(low, high, ms)

    def show(self, status: Status) -> None:
        """See :class:`real.teleop.source.Source`: it has no display."""

    def close(self) -> None:
        """See :class:`real.teleop.source.Source`."""
        if not self._closed:
            self._closed = True
            self._lose()
            self._controllers.quit()
            self._pygame.joystick.quit()
            self._pygame.display.quit()

    def _open(self) -> None:
        """Take the gamepad that is configured, if it is there."""
        if self.config.index >= self._pygame.joystick.get_count():
            return
        try:
            if self._controllers.is_controller(self.config.index):
                self._pad = self._controllers.Controller(self.config.index)
                self._instance = self._pad.as_joystick().get_instance_id()
            else:
                self._pad = self._pygame.joystick.Joystick(self.config.index)
                self._instance = self._pad.get_instance_id()
        except self._pygame.error:
            self._lose()  # unplugged in between

    def _lose(self) -> None:
        self._pad, self._instance = None, None
        self._axes.clear()
        self._held.clear()

    def _take(self, event: Any) -> None:
        """Take in one event of SDL; those of other gamepads are left alone."""
        pg = self._pygame
        if event.type in (pg.JOYDEVICEADDED, pg.CONTROLLERDEVICEADDED):
            if self._instance is None:
                self._open()
            return
        if event.type in (pg.JOYDEVICEREMOVED, pg.CONTROLLERDEVICEREMOVED):
            if event.instance_id == self._instance:
                self._lose()
            return
        if getattr(event, "instance_id", None) != self._instance:
            return
        plain = self._pad is not None and isinstance(self._pad, pg.joystick.JoystickType)
        if event.type == pg.CONTROLLERAXISMOTION or (plain and event.type == pg.JOYAXISMOTION):
            self._axis(event.axis, float(event.value), plain)
        elif event.type in (pg.CONTROLLERBUTTONDOWN, pg.CONTROLLERBUTTONUP) or (plain and event.type in (pg.JOYBUTTONDOWN, pg.JOYBUTTONUP)):
            name = _BUTTONS[event.button] if event.button < len(_BUTTONS) else ""
            self._button(name, event.type in (pg.CONTROLLERBUTTONDOWN, pg.JOYBUTTONDOWN))

    def _axis(self, axis: int, value: float, plain: bool) -> None:
        names = ("leftx", "lefty", "rightx", "righty", "lefttrigger", "righttrigger")
        if axis < len(names):
            value = value if plain else value / (32767.0 if value >= 0 else 32768.0)
            self._axes[names[axis]] = float(np.clip(value, 0.0 if "trigger" in names[axis] and not plain else -1.0, 1.0))

    def _button(self, name: str, down: bool) -> None:
        (self._held.add if down else self._held.discard)(name)
        if down and name in EVENTS:
            self._events.append(EVENTS[name])
        elif down and name in ("dpup", "dpdown"):
            self._dial = float(np.clip(self._dial * (1.25 if name == "dpup" else 0.8), 0.05, 1.0))
