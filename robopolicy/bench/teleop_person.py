"""A person at the teleoperation page who is a program: looks at what the page shows, presses keys, moves a gamepad.

The page is the real one in a real browser; only the hardware of the gamepad is not there, so ``navigator.getGamepads`` tells of one
whose sticks the program moves. What is seen is what the page itself was sent.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from policies.spec import InputError

HAND, GOAL = slice(14, 17), slice(0, 3)  # of observation.state and observation.environment_state of arm/reach
_GAIN, _ZONE = 10.0, 0.12  # deflection per metre, and the page's dead zone of sticks
_LOUDER = 5  # steps of the dial to full speed
_TAP = 0.012  # m, off along an axis from which its key is down
_AFTER_S = 0.3  # between two episodes, with open hands
_STUCK_S, _NEARER_M = 1.2, 0.02  # a policy that comes no nearer than that in that time is helped
_KEYS = (("w", "s"), ("a", "d"), ("r", "f"))
_CHROMIUM = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
_GAMEPAD = """
window.pad = {axes: [0, 0, 0, 0], clutch: false};
const buttons = () => Array.from({length: 17}, (_, n) => ({pressed: n === 4 && window.pad.clutch, touched: false, value: 0}));
navigator.getGamepads = () => [{index: 0, id: "virtual", mapping: "standard", connected: true, axes: window.pad.axes, buttons: buttons()}];
"""
_LOOK = "(pad) => { if (pad) window.pad = pad; return window.robopolicy ? {...window.robopolicy.status, latency: window.robopolicy.latency} : null; }"


def executable() -> str | None:
    """Return the path of a Chromium; None: there is none."""
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def sticks(off: np.ndarray) -> list[float]:
    """Return the deflections (3,) that move the hand straight along ``off`` (3,), m: full speed far away, less the nearer it is."""
    far = float(np.linalg.norm(off))
    wanted = off / max(far, 1e-9) * min(1.0, _GAIN * far)
    return (np.sign(wanted) * (_ZONE + (1 - _ZONE) * np.abs(wanted)) * (np.abs(wanted) > 0.02)).tolist()


class Person:
    """One person with one browser; a context manager.

    Args:
        url: Of the page, with its key.

    Attributes:
        ages: Age of the device as the page showed it, s, while something was held.
        latencies: Way there and back as the page showed it, ms.

    Raises:
        InputError: if there is no browser, or no playwright.
    """

    def __init__(self, url: str) -> None:
        self._url, self._stack = url, ExitStack()
        self.ages: list[float] = []
        self.latencies: list[float] = []
        self._down: set[str] = set()
        self._page: Any = None

    def __enter__(self) -> Person:
        """Open the page."""
        path = executable()
        if path is None:
            raise InputError("a browser is needed: apt-get install chromium")
        try:
            from playwright.sync_api import sync_playwright
        except ImportError as error:
            raise InputError(f"a driver for the browser is needed: pip install {error.name}") from error
        with ExitStack() as stack:
            browser = stack.enter_context(sync_playwright()).chromium.launch(executable_path=path, args=_CHROMIUM.split())
            stack.callback(browser.close)
            self._page = browser.new_page(viewport={"width": 1000, "height": 800})
            self._page.add_init_script(_GAMEPAD)
            self._page.goto(self._url)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the browser."""
        self._stack.close()

    def look(self, pad: dict[str, Any] | None = None) -> dict[str, Any]:
        """Move the gamepad, if it is to be, and return what the page shows; nothing: it is not connected."""
        seen = self._page.evaluate(_LOOK, pad) or {}
        if (seen.get("control") or {}).get("yours") and seen.get("latency"):
            self.latencies.append(float(seen["latency"]))
            if pad is not None and pad["clutch"] and seen["control"]["age_s"] is not None:
                self.ages.append(float(seen["control"]["age_s"]))
        return seen

    def press(self, key: str) -> None:
        """Press a key once."""
        self._page.keyboard.press(key)

    def show(self, ended: Callable[[], bool], episodes: int) -> None:
        """Demonstrate reaching until ``ended`` or so many episodes are kept; the last with the keyboard, the others with the gamepad."""
        self._work(ended, episodes, lambda kept, off: True, lambda kept: kept == episodes - 1)

    def help(self, ended: Callable[[], bool], episodes: int) -> None:
        """Let a policy act, and take over from it with the gamepad for the rest of an episode once it comes no nearer."""
        progress: dict[str, float] = {}

        def wanted(kept: int, off: float) -> bool:
            now = time.monotonic()
            if progress.get("episode") != kept:
                progress.update(episode=kept, best=off, at=now, taken=0.0)
            if off < progress["best"] - _NEARER_M:
                progress.update(best=off, at=now)
            if now - progress["at"] > _STUCK_S:
                progress["taken"] = 1.0
            return bool(progress["taken"])

        self._work(ended, episodes, wanted, lambda kept: False)

    def _work(self, ended: Callable[[], bool], episodes: int, wanted: Callable[[int, float], bool], with_keys: Callable[[int], bool]) -> None:
        rest = {"axes": [0.0] * 4, "clutch": False}
        for _ in range(_LOUDER):
            self.press("+")
        kept, free_at, given_back, pad = 0, 0.0, 0.0, rest
        while not ended():
            seen = self.look(pad)
            pad = rest
            readings, counts = seen.get("readings") or {}, (seen.get("teleop") or {}).get("counts") or {}
            now, done = time.monotonic(), sum(counts.values())
            if done != kept or seen.get("run") is None or "observation.state" not in readings:
                kept, free_at = done, now + _AFTER_S
            if kept >= episodes:
                self._hold(set())
                return
            if now < free_at:
                self._hold(set())
                continue
            off = np.array(readings["observation.environment_state"][GOAL]) - np.array(readings["observation.state"][HAND])
            if not wanted(kept, float(np.linalg.norm(off))):
                self._hold(set())
                if seen["teleop"]["taken"] and now > given_back + _AFTER_S:  # the clutch was closed still when the episode began
                    given_back = now
                    self.press("g")
            elif with_keys(kept):
                self._hold({pair[0] if way > 0 else pair[1] for pair, way in zip(_KEYS, off, strict=True) if abs(way) > _TAP})
            else:
                x, y, z = sticks(off)
                pad = {"axes": [-y, -x, 0.0, -z], "clutch": True}
            time.sleep(0.02)
        self._hold(set())

    def _hold(self, keys: set[str]) -> None:
        """Hold exactly these keys."""
        for key in self._down - keys:
            self._page.keyboard.up(key)
        for key in keys - self._down:
            self._page.keyboard.down(key)
        self._down = set(keys)
