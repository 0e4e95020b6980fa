"""The process of one camera: it reads its source without a pause, stamps what it gets, and comes back when the source was lost.

A process of its own: a decoder that crashes or hangs on what the network sends takes nothing with it, and the drive never
waits for a picture. It ends with whoever started it. ``python -m real.camera_process`` runs it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from collections.abc import Callable

import numpy as np

from policies.spec import InputError
from real.camera_capture import LARGEST_PX, CameraConfig, Capture, SourceError
from real.camera_memory import FrameMemory

_FIRST_PAUSE_S = 0.2
_PLAUSIBLE_S = 2.0  # a device's stamp that is older, or in the future, is not on this clock
_GAP = 1.5  # periods between two stamps of the source from which on pictures have been dropped


class Grabber:
    """Reads one source for ever.

    Args:
        config: The camera.
        memory: Where pictures go; opened with the first one, unless their shape is known already.
        clock: Monotonic seconds.
        sleep: Waits for some seconds.
    """

    def __init__(
        self, config: CameraConfig, memory: FrameMemory,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.config, self.memory, self._clock, self._sleep = config, memory, clock, sleep
        self._pause = _FIRST_PAUSE_S
        self._content, self._since, self._repeats = -1, 0.0, 0  # of the picture that may be frozen
        self._stamp_ns = 0
        self._period = 0.0  # measured, s

    def run(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Open, read, and open again until ``stopped()``, which is asked between pictures.

        Raises:
            InputError: OpenCV is not there.
        """
        again = over = False  # whether a file begins anew, or has been played
        while not stopped():
            self.memory["alive_ns"] = time.monotonic_ns()
            if over:
                self._sleep(0.2)
                continue
            try:
                capture = Capture(self.config)
            except SourceError as error:
                self._lost(str(error))
                continue
            self.memory.add("connections", int(not again))
            try:
                why = self.follow(capture, stopped)
            finally:
                capture.close()
            again = self.config.kind == "file" and self.config.loop
            over = self.config.kind == "file" and not again
            if why and not again:
                self.memory.add("losses")
                self._lost(f"{self.config.shown}: {why}")

    def follow(self, capture: Capture, stopped: Callable[[], bool] = lambda: False) -> str:
        """Hand on what ``capture`` gives until it gives no more; returns why, empty: it was stopped."""
        paced = self.config.kind == "file"
        period = 1 / capture.fps if capture.fps > 0 else 0.0
        due, before = self._clock(), None
        while not stopped():
            self.memory["alive_ns"] = time.monotonic_ns()
            if paced:
                due = self._wait(due, period or 1 / 30)
            read = capture.read()
            if read is None:
                return "its end" if paced else f"no picture for {self.config.stall_s:g} s, or the connection has ended"
            picture, said = read
            now = due if paced else self._clock()
            stamp = said if self.config.kind == "device" and said is not None and 0 <= now - said < _PLAUSIBLE_S else now
            if said is not None and before is not None and period and not paced:
                self.memory.add("dropped", max(round((said - before) / period) - 1, 0) if said - before > _GAP * period else 0)
            before = said
            why = self.take(picture, stamp, capture.shaped)
            if why:
                return why
        return ""

    def take(self, picture: np.ndarray, stamp: float, shaped: Callable[[np.ndarray], np.ndarray]) -> str:
        """Hand on one ``picture`` (H, W, 3) of second ``stamp``, ``shaped``, unless it is frozen; returns why no more can come."""
        memory, config = self.memory, self.config
        self._pause = _FIRST_PAUSE_S
        memory["connected"] = 1
        frozen = self._frozen(picture, stamp)
        if frozen != bool(memory["frozen"]):
            memory["frozen"] = int(frozen)
            memory.add("freezes", int(frozen))
        if frozen:
            memory.text = f"{config.shown}: frozen: the same picture, {self._repeats} times in {stamp - self._since:.1f} s"
            return ""
        if config.size is None and picture.shape[0] * picture.shape[1] > LARGEST_PX:
            return f"pictures of {picture.shape[1]}x{picture.shape[0]} px are too large to hand on; set size"
        image = shaped(picture)
        shape = (int(image.shape[0]), int(image.shape[1]), 3)
        if memory.shape is None:
            memory.open(shape)
            announce(shape)
        known = memory.shape or shape
        if shape != known:
            return f"pictures of {shape[1]}x{shape[0]} px now, {known[1]}x{known[0]} before"
        ns = max(int(1e9 * (stamp - 1e-3 * (config.latency_ms or 0.0))), self._stamp_ns + 1)  # never back
        self._measure(1e-9 * (ns - self._stamp_ns))
        self._stamp_ns = ns
        memory.text = ""
        memory.add("frames")
        memory.publish(image, ns)
        return ""

    def _frozen(self, picture: np.ndarray, stamp: float) -> bool:
        """Whether the same content keeps coming, under whatever stamps."""
        if self.config.frozen_s is None:
            return False
        content = zlib.crc32(np.ascontiguousarray(picture).data)
        if content != self._content:
            self._content, self._since, self._repeats = content, stamp, 0
            return False
        self._repeats += 1
        self.memory.add("repeated")
        return self._repeats >= self.config.frozen_frames and stamp - self._since >= self.config.frozen_s

    def _measure(self, interval: float) -> None:
        if 0 < interval < self.config.stall_s:
            self._period += (interval - self._period) * (0.05 if self._period else 1.0)
            self.memory["rate_mhz"] = round(1e3 / self._period)

    def _wait(self, due: float, period: float) -> float:
        """Wait for the point of a file's next picture and return it; one that is late is not made up for."""
        due = due + period if self._clock() - due < 2 * period else self._clock()
        self._sleep(max(due - self._clock(), 0.0))
        return due

    def _lost(self, why: str) -> None:
        """Say why there are no pictures, and wait before the next attempt, each time longer."""
        self.memory["connected"] = 0
        self.memory.text = why
        until = self._clock() + self._pause
        while (left := until - self._clock()) > 0:
            self.memory["alive_ns"] = time.monotonic_ns()
            self._sleep(min(left, 0.2))
        self._pause = min(2 * self._pause, self.config.retry_s)


def announce(shape: tuple[int, int, int]) -> None:
    """Tell whoever started this process the shape (H, W, 3) of the pictures."""
    print(*shape, flush=True)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # nothing is ever written there: it ends when the other side does
    os._exit(0)


def main() -> int:
    """Run the camera of ``argv``: the configuration as JSON, the descriptor of the memory, and H W 3 if they are known."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    config, file, shape = CameraConfig.model_validate_json(sys.argv[1]), int(sys.argv[2]), tuple(map(int, sys.argv[3:6]))
    memory = FrameMemory(file, (shape[0], shape[1], shape[2]) if shape else None)
    try:
        Grabber(config, memory).run()
    except InputError as error:
        memory.text = str(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
