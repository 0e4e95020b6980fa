"""Sensors that lie: a relay between robot and drive repeats what was measured once, or says that it is older."""

from __future__ import annotations

import numpy as np

from real.wire import Limits, decode, encode

_LIMITS = Limits(frame_bytes=1 << 24)


class Senses:
    """Changes the readings that pass a relay; give it to ``Network.towards_client``.

    Attributes:
        frozen: While True every reading holds the arrays of the last one before, with its own fresh stamps.
        older_s: Added to the age of every field.
        changed: Readings that were changed so far.
    """

    def __init__(self) -> None:
        self.frozen, self.older_s, self.changed = False, 0.0, 0
        self._kept: dict[str, np.ndarray] = {}

    def __call__(self, frames: list[bytes]) -> list[bytes]:
        message = decode(frames, _LIMITS)
        if message.kind != "observation":
            return frames
        if self.frozen and self._kept:
            message.arrays.update(self._kept)
        else:
            self._kept = {name: array.copy() for name, array in message.arrays.items()}
        message.ages_s = {name: age + self.older_s for name, age in message.ages_s.items()}
        self.changed += self.frozen or self.older_s > 0
        return [bytes(frame) for frame in encode(message)]
