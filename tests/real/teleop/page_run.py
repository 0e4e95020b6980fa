"""What stands for a run that is teleoperated, for tests of the page."""

from __future__ import annotations

import math
import threading
import time

import numpy as np

from real.operator import OperatorChannel
from real.telemetry import Telemetry
from real.teleop.page import PageConfig, PageSource
from real.teleop.source import Input, Status

LIMIT_S = 60.0


class Run:
    """Stands for a run that is teleoperated: it asks the device 100 times a second and says by telemetry how it is."""

    def __init__(self, **options) -> None:
        self.source = PageSource(PageConfig(port=0, **options))
        self.telemetry, self.channel = Telemetry(), OperatorChannel()
        self.telemetry.info(robot="toy <i>robot</i>")
        self.now, self.events, self.asked = Input(), [], []
        self.status = Status(task="push <b>it</b>", counts={"success": 2}, episode=3, episodes=9)
        self.state, self.answers = "active", True
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def join(self, latch="") -> None:
        self.source.join(self.telemetry.address, self.channel.address, self.channel.token, latch)

    def _work(self) -> None:
        picture, n = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8), 0
        while not self._done.wait(0.01):
            n += 1
            self.now = self.source.poll()
            self.events += self.now.events
            if self.answers:
                self.asked += [kind for kind, _ in self.channel.poll()]
            self.telemetry.tick({"state": self.state, "cause": "", "speed": 0.7, "tick": n})
            if n % 5 == 0:
                self.telemetry.observation({"observation.images.<top>": np.roll(picture, n, 0), "observation.state": np.array([n, math.nan])})
                self.source.show(self.status)

    def wait(self, condition, what):
        until = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < until, f"{what}: {self.now} {self.events} {self.asked}"
            time.sleep(0.01)

    def moves(self, axis, sign):
        """Wait until the input is along ``sign`` of one axis alone, and fresh."""
        self.wait(
            lambda: self.now.clutch and self.now.age <= 0.2 and self.now.twist[axis] * sign > 0 and np.abs(np.delete(self.now.twist, axis)).max() == 0, axis
        )

    def still(self):
        """Wait until nothing moves although input still comes."""
        self.wait(lambda: not self.now.clutch and not self.now.twist.any() and self.now.grip == 0 and self.now.age <= 0.2, "still")

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self.source.close()
        self.telemetry.close()
        self.channel.close()
