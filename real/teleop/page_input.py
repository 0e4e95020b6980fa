"""What browsers say: one checked message at a time, and which of them has the controls.

A browser repeats what its person holds (a beat, 40 times a second) and says once what was pressed (an event). Every answer
to a beat carries a number of the server's clock, and the next beat brings it back: so the server knows how old a
beat can be at most, whatever clock the browser has and however long the network kept the message.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from real.teleop.source import EVENTS

#: What can only make the robot safer: it needs neither the key nor the controls.
SAFER = ("stop", "hold")
MESSAGE_BYTES = 2048
AXES = 6
JOINTS = 16  # at most
LEASE_S = 2.0  # a browser that is silent for longer no longer has the controls
_FARTHEST = 100.0  # m
_SLOWEST = 0.01  # of the dial
SAME_S = 0.05  # a stop or a hold that follows another so soon is the same: nobody pushes others' events out of the list
LATE_EVENT_S = 1.0  # an event that was on its way for longer is not carried out, unless it makes the robot safer


class Malformed(ValueError):
    """A message that no page of ours sends; the text says why."""


@dataclass(frozen=True)
class Beat:
    """What a person holds.

    Attributes:
        number: Counts the beats of a browser.
        echo_ns: The server's clock in the last answer that the browser had, nanoseconds.
        axes: Translation along and rotation about x, y and z of the robot's base, each -1 to 1.
        joints: Joint by joint, each -1 to 1; empty: the axes count.
        pose: Place of the device (x, y, z), m, and its turn as a quaternion (w, x, y, z), in a frame whose z is up; empty: it has none.
        gripper: -1 closes, 1 opens, what is between is a speed.
        clutch: Whether the robot is to follow.
        dial: Speed, 0 to 1.
    """

    number: int = 0
    echo_ns: int = 0
    axes: tuple[float, ...] = (0.0,) * AXES
    joints: tuple[float, ...] = ()
    pose: tuple[float, ...] = ()
    gripper: float = 0.0
    clutch: bool = False
    dial: float = 0.5


@dataclass(frozen=True)
class Event:
    """What a person pressed; ``echo_ns`` as in a beat."""

    name: str
    echo_ns: int = 0


@dataclass(frozen=True)
class Wish:
    """Of the page itself: ``control`` (take or give back the controls, ``value``), or ``drawn`` (image ``value`` is on the screen)."""

    name: str
    value: int


def parse(text: str | bytes) -> Beat | Event | Wish:
    """Return what one message says.

    Raises:
        Malformed: for anything that is not exactly a message.
    """
    if not isinstance(text, str) or len(text) > MESSAGE_BYTES:
        raise Malformed("expected a short text")
    try:
        found = json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise Malformed("expected an object")
    kind = found.get("kind")
    if kind == "beat":
        return _beat(found)
    if kind == "event":
        _only(found, {"kind", "name", "echo"})
        if not isinstance(found.get("name"), str) or found["name"] not in EVENTS:
            raise Malformed(f"event: expected one of {', '.join(EVENTS)}")
        return Event(found["name"], 1000 * _count(found.get("echo")))
    if kind in ("control", "drawn"):
        _only(found, {"kind", "value"})
        return Wish(kind, _count(found.get("value")))
    raise Malformed("kind: expected beat, event, control or drawn")


def _beat(found: dict[str, Any]) -> Beat:
    _only(found, {"kind", "number", "echo", "axes", "joints", "pose", "gripper", "clutch", "dial"})
    axes, joints = _numbers(found.get("axes"), 1), _numbers(found.get("joints", []), 1)
    if len(axes) != AXES or len(joints) > JOINTS:
        raise Malformed(f"expected {AXES} axes and at most {JOINTS} joints")
    if not isinstance(found.get("clutch"), bool):
        raise Malformed("clutch: expected true or false")
    pose = _numbers(found.get("pose", []), _FARTHEST)
    if len(pose) not in (0, 7) or (pose and not 0.9 < math.hypot(*pose[3:]) < 1.1):
        raise Malformed("pose: expected x, y, z and a quaternion of length 1")
    gripper, dial = _numbers([found.get("gripper"), found.get("dial")], 1)
    return Beat(_count(found.get("number")), 1000 * _count(found.get("echo")), axes, joints, pose, gripper, found["clutch"], max(dial, _SLOWEST))


def _refused(text: str) -> float:
    raise ValueError(text)


def _only(found: dict[str, object], names: set[str]) -> None:
    if set(found) - names:
        raise Malformed("a field that is none")


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise Malformed("expected a count")
    return value


def _numbers(values: object, most: float) -> tuple[float, ...]:
    """Return finite numbers, each brought to at most ``most`` in size."""
    if not isinstance(values, list) or len(values) > 64:
        raise Malformed("expected a short list of numbers")
    out = []
    for value in values:
        if type(value) not in (int, float) or not -1e18 < value < 1e18:  # what is not finite is not between them either
            raise Malformed("expected a finite number")
        out.append(min(max(float(value), -most), most))
    return tuple(out)


@dataclass
class Browser:
    """One connected browser.

    Attributes:
        number: Of the connection.
        trusted: Whether it showed the key.
        beat: Its newest beat.
        proven_ns: A moment of the server's clock that ``beat`` is not older than.
        heard_ns: When it last said anything.
        malformed: Messages of it that were none.
    """

    number: int
    trusted: bool
    beat: Beat = field(default_factory=Beat)
    proven_ns: int = 0
    heard_ns: int = 0
    malformed: int = 0


class Controls:
    """Which browser has the controls, and what its person does with them. Times are the server's monotonic nanoseconds.

    The first browser with the key that moves something has them, as long as it is there, is heard and does not give them
    back; the others look on. What makes the robot safer is taken from anyone.

    Attributes:
        browsers: number -> browser.
        holder: Number of the one that has the controls; None: nobody.
        events: (number, name) of the last events carried out, oldest first.
        refused: Events that were not carried out.
    """

    def __init__(self) -> None:
        self.browsers: dict[int, Browser] = {}
        self.holder: int | None = None
        self.events: list[tuple[int, str]] = []
        self.refused = 0
        self._joined = self._happened = 0
        self._safer_ns: dict[str, int] = {}  # when that was pressed last

    def join(self, trusted: bool, now_ns: int) -> Browser:
        """Return the record of a browser that has just connected."""
        self._joined += 1
        browser = self.browsers[self._joined] = Browser(self._joined, trusted, heard_ns=now_ns)
        return browser

    def leave(self, browser: Browser) -> None:
        """Forget a browser; the controls it had are free."""
        self.browsers.pop(browser.number, None)
        if self.holder == browser.number:
            self.holder = None

    def beat(self, browser: Browser, beat: Beat, now_ns: int) -> None:
        """Take what the person at ``browser`` holds; who moves something while nobody has the controls gets them."""
        browser.heard_ns = now_ns
        if beat.number <= browser.beat.number:
            return
        browser.beat, browser.proven_ns = beat, min(beat.echo_ns, now_ns)
        if beat.clutch and browser.trusted and not self._held(now_ns):
            self.holder = browser.number

    def control(self, browser: Browser, wanted: bool, now_ns: int) -> bool:
        """Give the controls to ``browser`` if they are free, or take them back; returns whether that was done."""
        if not wanted:
            self.holder = None if self.holder == browser.number else self.holder
            return True
        if not browser.trusted or (self._held(now_ns) and self.holder != browser.number):
            return False
        self.holder, browser.heard_ns = browser.number, now_ns
        return True

    def event(self, browser: Browser, event: Event, now_ns: int) -> str:
        """Carry out what was pressed; returns why not, or nothing."""
        browser.heard_ns = now_ns
        if event.name not in SAFER:
            if not browser.trusted:
                return self._refuse(f"{event.name}: needs the key of this page")
            if now_ns - event.echo_ns > LATE_EVENT_S * 1e9:
                return self._refuse(f"{event.name}: came too late")
            if not self.control(browser, True, now_ns):
                return self._refuse(f"{event.name}: another browser has the controls")
        elif now_ns - self._safer_ns.get(event.name, -(1 << 62)) < SAME_S * 1e9:
            return ""
        else:
            self._safer_ns[event.name] = now_ns
        self._happened += 1
        self.events = [*self.events[-31:], (self._happened, event.name)]
        return ""

    def held(self, now_ns: int) -> tuple[Beat, int]:
        """Return what the person with the controls holds, and the moment that it is not older than.

        While nobody has them the clutch is open, and the moment is that of the browser heard last; 0: there is none.
        """
        if self._held(now_ns):
            assert self.holder is not None
            browser = self.browsers[self.holder]
            return browser.beat, browser.proven_ns
        newest = max((b for b in self.browsers.values() if b.trusted), key=lambda b: b.proven_ns, default=None)
        return (Beat(), 0) if newest is None else (Beat(dial=newest.beat.dial), newest.proven_ns)

    def _held(self, now_ns: int) -> bool:
        """Whether somebody has the controls; who is not heard loses them."""
        browser = None if self.holder is None else self.browsers.get(self.holder)
        if browser is None or now_ns - browser.heard_ns > LEASE_S * 1e9:
            self.holder = None
        return self.holder is not None

    def _refuse(self, why: str) -> str:
        self.refused += 1
        return why
