"""A 3Dconnexion SpaceMouse through ``hidapi`` (on Linux its ``hidraw``): pushing and turning its cap moves the hand, its buttons grip and give back.

Reports are read as they come (1: translation or all six axes, 2: rotation, 3: buttons), without a driver of the maker's. On Linux the
device file must be readable: ``SUBSYSTEM=="hidraw", ATTRS{idVendor}=="256f", MODE="0660", TAG+="uaccess"`` in a file of
/etc/udev/rules.d (046d for those that Logitech sold).
"""

from __future__ import annotations

import importlib
import importlib.util
import struct
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Protocol

import numpy as np
import pydantic

from policies.config import Config
from policies.spec import InputError, Spec
from real.robot import RobotInfo
from real.teleop.source import EVENTS, Input, Status

_VENDORS = (0x256F, 0x046D)
_LOGITECH = frozenset(range(0xC603, 0xC62C))  # 3Dconnexion's products under Logitech's number
_MULTI_AXIS = (0x01, 0x08)  # HID usage page and usage of a six-axis controller
_FULL = 350.0  # counts of an axis at its end
_SILENT_S = 0.2  # a deflected cap reports all the time
_LOOK_S = 1.0


class SpacemouseConfig(Config):
    """Which SpaceMouse, and what it does.

    Attributes:
        path: Of the device (``/dev/hidraw3``); None: the first.
        clutch: What lets the robot follow: deflecting the ``cap``, or holding a ``button``.
        button: Number of that button, from 0.
        buttons: Number of a button -> what it asks for.
        dial: Speed, 0 to 1.
        signs: Of the six axes, for a mouse that lies otherwise.
    """

    path: str | None = None
    clutch: Annotated[str, pydantic.Field(pattern="^(cap|button)$")] = "cap"
    button: pydantic.NonNegativeInt = 0
    buttons: dict[int, str] = pydantic.Field(default_factory=lambda: {0: "grip", 1: "release"})
    dial: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.5
    signs: tuple[float, float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)

    @pydantic.field_validator("buttons")
    @classmethod
    def _known(cls, value: dict[int, str]) -> dict[int, str]:
        for event in value.values():
            if event not in EVENTS:
                raise ValueError(f"{event!r} is nothing to ask for: {', '.join(EVENTS)}")
        return value


class HidDevice(Protocol):
    """What is used of ``hid.device``."""

    def read(self, max_length: int) -> list[int]:
        """Return the next report, or an empty list where none waits. Raises OSError when the device has gone."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def open_hid(path: str | None) -> HidDevice | None:
    """Return the SpaceMouse at ``path``, or the first one; None: there is none (now).

    Raises:
        InputError: if hidapi is missing, or the device may not be opened by this user.
    """
    api: Any = None
    for name in ("hidraw", "hid"):  # on Linux the package's ``hid`` goes round the kernel's driver over libusb
        if importlib.util.find_spec(name) is not None:
            api = importlib.import_module(name)
            break
    if api is None:
        raise InputError("device spacemouse needs hidapi: pip install 'robopolicy[teleop]'")
    paths = [path.encode()] if path else [d["path"] for d in api.enumerate() if is_spacemouse(d)]
    if not paths:
        return None
    device = api.device()
    try:
        device.open_path(paths[0])
    except OSError as error:
        raise InputError(f"device spacemouse: {paths[0].decode()} may not be opened ({error}); see docs/teleop.md for the udev rule") from error
    device.set_nonblocking(True)
    return device


def is_spacemouse(found: Mapping[str, Any]) -> bool:
    """Whether an entry of ``hid.enumerate()`` is a SpaceMouse."""
    vendor, product = found.get("vendor_id"), found.get("product_id")
    if vendor not in _VENDORS or (vendor == 0x046D and product not in _LOGITECH):
        return False
    usage = (found.get("usage_page", 0), found.get("usage", 0))
    return usage in (_MULTI_AXIS, (0, 0))  # a receiver has other interfaces, too


class SpacemouseSource:
    """See :class:`real.teleop.source.Source`. It may be plugged in and out at any time.

    Args:
        config: See :class:`SpacemouseConfig`.
        clock: Monotonic seconds.
        opened: Opens the device.

    Raises:
        InputError: if hidapi is missing, or the device may not be opened.
    """

    Config = SpacemouseConfig
    name = "spacemouse"
    stale_s = 0.25
    help: Mapping[str, str] = {"cap": "pushes and turns the hand", "left button": "gripper to its other end", "right button": "give back to the policy"}

    def __init__(
        self, config: SpacemouseConfig = SpacemouseConfig(), clock: Callable[[], float] = time.monotonic,
        opened: Callable[[str | None], HidDevice | None] = open_hid,
    ) -> None:  # fmt: skip
        self.config, self._clock, self._opened = config, clock, opened
        self._axes, self._pressed = np.zeros(6), 0
        self._events: list[str] = []
        self._moved_at = self._look_at = -1e9
        self._device = opened(config.path)

    def attach(self, spec: Spec, info: RobotInfo) -> None:
        """See :class:`real.teleop.source.Source`: any robot can be moved."""

    @property
    def connected(self) -> bool:
        """Whether there is a device."""
        return self._device is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know at the beginning."""
        return () if self.connected else ("no SpaceMouse is connected yet; plug it in at any time",)

    def poll(self) -> Input:
        """See :class:`real.teleop.source.Source`."""
        now = self._clock()
        if self._device is None and now >= self._look_at:
            self._look_at = now + _LOOK_S
            try:
                self._device = self._opened(self.config.path)
            except InputError:
                self._device = None  # it has come back and may not be opened: no input, which the clutch shows
        self._read(now)
        events, self._events = tuple(self._events), []
        if self._device is None:
            return Input(events=events, dial=self.config.dial)
        deflected = bool(np.abs(self._axes).max() > 0.03)
        clutch = deflected if self.config.clutch == "cap" else bool(self._pressed >> self.config.button & 1)
        age = now - self._moved_at if deflected and now - self._moved_at > _SILENT_S else 0.0
        return Input(twist=np.clip(self._axes * self.config.signs, -1, 1), clutch=clutch, dial=self.config.dial, events=events, age=age)

    def feedback(self, cue: str) -> None:
        """See :class:`real.teleop.source.Source`: it can do neither."""

    def show(self, status: Status) -> None:
        """See :class:`real.teleop.source.Source`: it has no display."""

    def close(self) -> None:
        """See :class:`real.teleop.source.Source`."""
        device, self._device = self._device, None
        if device is not None:
            device.close()

    def _read(self, now: float) -> None:
        """Take in every report that waits, at most what a device can have sent since the last tick."""
        for _ in range(64):
            if self._device is None:
                return
            try:
                report = bytes(self._device.read(32))
            except (OSError, ValueError):
                self.close()
                self._axes, self._pressed = np.zeros(6), 0
                return
            if not report:
                return
            self._take(report, now)

    def _take(self, report: bytes, now: float) -> None:
        """Take in one report; what is no such report is left alone."""
        kind, body = report[0], report[1:]
        if kind == 1 and len(body) >= 12:
            self._moved(struct.unpack_from("<6h", body), (0, 1, 2, 3, 4, 5), now)
        elif kind in (1, 2) and len(body) >= 6:
            self._moved(struct.unpack_from("<3h", body), (0, 1, 2) if kind == 1 else (3, 4, 5), now)
        elif kind == 3 and body:
            pressed = int.from_bytes(body[:4], "little")
            for number, event in self.config.buttons.items():
                if pressed >> number & 1 and not self._pressed >> number & 1 and not (self.config.clutch == "button" and number == self.config.button):
                    self._events.append(event)
            self._pressed = pressed

    def _moved(self, counts: tuple[int, ...], raw: tuple[int, ...], now: float) -> None:
        """Take in axes: the device's x is right, y towards the person, z down; ours forward, left, up, and both are right-handed."""
        for count, axis in zip(counts, raw, strict=True):
            value = float(np.clip(count / _FULL, -1, 1))
            group = axis // 3 * 3
            self._axes[group + (1, 0, 2)[axis % 3]] = -value
        self._moved_at = now
