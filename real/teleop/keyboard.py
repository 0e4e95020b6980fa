"""The terminal's keyboard as a device: no driver, no window, over SSH too.

A terminal tells of characters, not of keys: one that is held is known by its repetition. The first press moves for a moment, a
repetition within the keyboard's usual delay moves on until it stops. Whatever happens, the terminal is left as it was found.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
import pydantic

from policies.config import Config
from policies.spec import InputError, Spec
from real.robot import RobotInfo
from real.teleop.source import Input, Status

_TWISTS = {"w": (0, 1), "s": (0, -1), "a": (1, 1), "d": (1, -1), "r": (2, 1), "f": (2, -1),
           "u": (3, -1), "o": (3, 1), "i": (4, 1), "k": (4, -1), "j": (5, 1), "l": (5, -1)}  # fmt: skip
_ARROWS = {b"\x1b[A": "w", b"\x1b[B": "s", b"\x1b[D": "a", b"\x1b[C": "d", b"\x1b[5~": "r", b"\x1b[6~": "f"}
_GRIPS = {"e": 1.0, "q": -1.0}
_EVENTS = {"\r": "start", "\n": "start", "y": "success", "n": "failure", "\x7f": "discard", "\b": "discard", "t": "takeover", "g": "release",
           " ": "grip", "h": "home", "c": "frame", "z": "hold", "v": "resume", "\x1b": "stop", "x": "quit"}  # fmt: skip
_NO_TERMINAL = "device keyboard: standard input is no terminal; start it in one, or use another device, e.g. device=page"
_ESCAPE_S = 0.03  # an escape that nothing follows within that time is the key


class KeyboardConfig(Config):
    """How a terminal's characters become held keys.

    Attributes:
        tap_s: How long one press moves.
        repeat_s: How long a repetition moves; longer than the time between two.
        delay_s: The keyboard's delay before it repeats: a second press of the same key within it is a repetition.
        dial: Speed at first, 0 to 1.
        file: Terminal to read; None: standard input.
    """

    tap_s: Annotated[float, pydantic.Field(gt=0, le=0.5)] = 0.15
    repeat_s: Annotated[float, pydantic.Field(gt=0, le=0.5)] = 0.15
    delay_s: pydantic.PositiveFloat = 0.8
    dial: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.5
    file: str | None = None


class KeyboardSource:
    """See :class:`real.teleop.source.Source`.

    Args:
        config: See :class:`KeyboardConfig`.
        clock: Monotonic seconds.

    Raises:
        InputError: if there is no terminal.
    """

    Config = KeyboardConfig
    name = "keyboard"
    help: Mapping[str, str] = {
        "w s a d (or arrows)": "forward, back, left, right",
        "r f (or page up, down)": "up, down",
        "i k  j l  u o": "turn: pitch, yaw, roll",
        "1..9": "choose a joint, which then w and s move; 0: the hand again",
        "e q  space": "gripper: open, close, the other end",
        "+ -": "speed",
        "Enter": "begin an episode",
        "y n Backspace": "the episode is a success, a failure, forgotten",
        "t g": "take over from the policy, give back",
        "h c": "go home; axes of base, tool or camera",
        "z v": "hold, resume",
        "Escape": "STOP",
        "x": "end the session",
    }

    def __init__(self, config: KeyboardConfig = KeyboardConfig(), clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self._clock = config, clock
        self.stale_s = 0.5
        self._owned = config.file is not None
        try:
            self._file = sys.stdin.fileno() if config.file is None else os.open(config.file, os.O_RDWR | os.O_NOCTTY)
        except (OSError, ValueError) as error:
            if config.file is None:
                raise InputError(_NO_TERMINAL) from error
            raise InputError(f"device keyboard: {config.file} cannot be read: {error}") from error
        if not os.isatty(self._file):
            if self._owned:
                os.close(self._file)
            raise InputError(_NO_TERMINAL if config.file is None else f"device keyboard: {config.file} is no terminal")
        self._before: list[Any] | None = termios.tcgetattr(self._file)
        self._signals: dict[int, Any] = {}
        atexit.register(self.close)
        tty.setcbreak(self._file)  # characters at once, unseen; Ctrl-C still interrupts
        main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGTSTP, signal.SIGCONT) if main else ():
            self._signals[number] = signal.signal(number, self._suspended)
        self._pressed: dict[str, tuple[float, float]] = {}  # key -> when last, and until when it counts as held
        self._buffer, self._dial, self._gone = b"", config.dial, False
        self._joint: int | None = None
        self._joints = 0
        self._escape_at: float | None = None

    def attach(self, spec: Spec, info: RobotInfo) -> None:
        """See :class:`real.teleop.source.Source`."""
        self._joints = spec.action.dim

    def poll(self) -> Input:
        """See :class:`real.teleop.source.Source`."""
        now, events = self._clock(), []
        for key in self._keys(now):
            event = self._press(key, now)
            if event:
                events.append(event)
        held = {key for key, (_, until) in self._pressed.items() if now <= until}
        twist = np.zeros(6)
        for key in held & set(_TWISTS):
            axis, sign = _TWISTS[key]
            twist[axis] += sign
        joints = None
        if self._joint is not None:
            joints = np.zeros(self._joints)
            joints[self._joint], twist = twist[0], np.zeros(6)
        grip = sum(_GRIPS[key] for key in held & set(_GRIPS))
        moving = bool(twist.any() or grip or (joints is not None and joints.any()))
        return Input(
            twist=np.clip(twist, -1, 1), joints=joints, grip=float(np.clip(grip, -1, 1)), clutch=moving, dial=self._dial,
            events=tuple(events), age=float("inf") if self._gone else 0.0,
        )  # fmt: skip

    def feedback(self, cue: str) -> None:
        """See :class:`real.teleop.source.Source`: the terminal's bell."""
        if cue in ("recording", "saved", "discarded", "refused", "limit") and not self._gone:
            bell = sys.stdout.fileno() if not self._owned and sys.stdout.isatty() else self._file
            try:
                if select.select([], [bell], [], 0)[1]:
                    os.write(bell, b"\a")
            except OSError:
                return  # it was closed since the last look, which the next one notices

    def show(self, status: Status) -> None:
        """See :class:`real.teleop.source.Source`: the command line shows it."""

    def close(self) -> None:
        """See :class:`real.teleop.source.Source`."""
        if self._before is not None:
            before, self._before = self._before, None
            try:
                termios.tcsetattr(self._file, termios.TCSADRAIN, before)
            except termios.error:
                self._gone = True  # the terminal was closed: there is nothing to restore
            for number, handler in self._signals.items():
                signal.signal(number, handler)
            if self._owned:
                os.close(self._file)
            atexit.unregister(self.close)

    def _suspended(self, number: int, frame: Any) -> None:
        """Give the terminal back while the process is stopped with Ctrl-Z, and take it again afterwards."""
        if self._before is None:
            return
        if number == signal.SIGTSTP:
            termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)
        else:
            tty.setcbreak(self._file)
            signal.signal(signal.SIGTSTP, self._suspended)
            self._pressed.clear()

    def _keys(self, now: float) -> list[str]:
        """Return the keys whose characters have come; an escape alone is the key of that name."""
        while not self._gone and select.select([self._file], [], [], 0)[0]:
            try:
                new = os.read(self._file, 1024)
            except OSError:
                new = b""
            if not new:
                self._gone = True  # the terminal has been closed
                break
            self._buffer += new
            self._escape_at = now
        out = []
        while self._buffer:
            if self._buffer[:1] != b"\x1b":
                out.append(self._buffer[:1].decode("ascii", "replace").lower())
                self._buffer = self._buffer[1:]
                continue
            if self._buffer == b"\x1b" and self._escape_at is not None and now - self._escape_at < _ESCAPE_S:
                break  # perhaps the first character of an arrow
            found = next((code for code in _ARROWS if self._buffer.startswith(code)), None)
            if found is not None:
                out.append(_ARROWS[found])
                self._buffer = self._buffer[len(found) :]
            elif len(self._buffer) > 1 and self._buffer[1:2] in b"[O":
                if any(code.startswith(self._buffer) for code in _ARROWS):
                    break  # the rest of it is on its way
                self._buffer = self._buffer[_sequence_length(self._buffer) :]
            else:
                out.append("\x1b")
                self._buffer = self._buffer[1:]
        if self._buffer and self._escape_at is not None and now - self._escape_at > 0.05:
            self._buffer = b""  # a sequence that never ended
        return out

    def _press(self, key: str, now: float) -> str:
        """Note a pressed key; returns the event that it stands for, or nothing."""
        if key in ("+", "=", "-", "_"):
            self._dial = float(np.clip(self._dial * (1.25 if key in "+=" else 0.8), 0.05, 1.0))
        elif key.isdigit():
            chosen = int(key) - 1
            self._joint = chosen if 0 <= chosen < self._joints else None
        elif key in _TWISTS or key in _GRIPS:
            last, until = self._pressed.get(key, (-1e9, -1e9))
            again = now - last <= self.config.delay_s
            self._pressed[key] = now, max(until, now + (self.config.repeat_s if again else self.config.tap_s))
        return _EVENTS.get(key, "")


def _sequence_length(buffer: bytes) -> int:
    """Return how long the control sequence at the beginning of ``buffer`` is: up to its first letter or ``~``."""
    for i, byte in enumerate(buffer[2:], 2):
        if 0x40 <= byte <= 0x7E:
            return i + 1
    return len(buffer)
