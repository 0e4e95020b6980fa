"""What lies between a policy and the world: late, lost and noisy commands and readings, for all worlds at once.

Noise is a function of (episode's key, step, element) alone, so an episode's noise depends neither on the number of worlds nor on
their history. What is late lies in one ring per channel, read with one gather a step.
"""

from __future__ import annotations

import numpy as np

from sim.episodes import hashed

_LOST, _WHITE = 11, 12  # streams of one channel


def late(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whole steps (K,) int64 and the rest (K,) in [0, 1) of delays in ``steps`` (K,)."""
    whole = np.floor(steps)
    return whole.astype(np.int64), steps - whole


def step_uniform(key: np.ndarray, step: np.ndarray, stream: int = _LOST) -> np.ndarray:
    """Return (K,) float64 in [0, 1), one for each row's ``key`` (K,) and ``step`` (K,)."""
    return hashed(key, step, stream) * 2.0**-63


def step_normals(key: np.ndarray, step: np.ndarray, count: int, stream: int = _WHITE) -> np.ndarray:
    """Return (K, count) standard normals for each row's ``key`` (K,) and ``step`` (K,) (Box and Muller 1958, both of each pair used)."""
    pairs = (count + 1) // 2
    units = hashed(hashed(key, step, stream)[:, None], np.arange(2 * pairs)[None, :]) * 2.0**-63
    length, angle = np.sqrt(-2.0 * np.log1p(-units[:, :pairs])), 2.0 * np.pi * units[:, pairs:]
    return np.concatenate([length * np.cos(angle), length * np.sin(angle)], axis=1)[:, :count]


class Ring:
    """The last values of a channel, so that what was sent a while ago can be had again.

    Args:
        num_worlds: N.
        width: D, numbers a value.
        longest: Largest delay, steps.
        dtype: Of the values.
    """

    def __init__(self, num_worlds: int, width: int, longest: float, dtype: str) -> None:
        self.depth = int(np.floor(longest)) + 2
        self._values = np.zeros((num_worlds, self.depth, width), dtype)
        self._whole, self._part = np.zeros(num_worlds, np.int64), np.zeros(num_worlds)

    def begin(self, rows: np.ndarray, steps: np.ndarray) -> None:
        """Set the delay of worlds ``rows`` (K,) to ``steps`` (K,)."""
        self._whole[rows], self._part[rows] = late(steps)

    def fill(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Let worlds ``rows`` (K,) have had ``values`` (K, D) since ever."""
        self._values[rows] = values[:, None]

    def pass_through(self, rows: np.ndarray, time: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Store ``values`` (K, D) of step ``time`` (K,) of worlds ``rows`` (K,); return the late ones (K, D), between two steps in proportion."""
        self._values[rows, time % self.depth] = values
        whole, part = self._whole[rows], self._part[rows][:, None].astype(self._values.dtype)
        newer, older = self._values[rows, (time - whole) % self.depth], self._values[rows, (time - whole - 1) % self.depth]
        return newer + part * (older - newer)


class Channel:
    """Commands, or some elements of one observed field, on their way in N worlds.

    Commands are lost, then late, then noisy; readings are late, then biased and noisy, then lost; both end inside the limits.

    Args:
        num_worlds: N.
        width: D.
        low: (D,) limits, infinite where there are none.
        high: (D,).
        longest: Largest delay that can be drawn, steps.
        noisy: Whether noise can be drawn.
        losing: Whether values can be lost.
        biased: Whether a bias can be drawn.
        dtype: Of the values.

    Attributes:
        lost: (N,) int64, values lost in the present episode.
    """

    def __init__(
        self, num_worlds: int, width: int, low: np.ndarray, high: np.ndarray, longest: float, noisy: bool, losing: bool, biased: bool, dtype: str
    ) -> None:
        self.width, self.low, self.high = width, low.astype(dtype), high.astype(dtype)
        self.lost, self._time, self._key = (np.zeros(num_worlds, np.int64) for _ in range(3))
        self._chance, self._deviation, self._bias = np.zeros(num_worlds), np.zeros(num_worlds), np.zeros((num_worlds, width))
        self._last = np.zeros((num_worlds, width), dtype)
        self._ring = Ring(num_worlds, width, longest, dtype) if longest > 0 else None
        self._noisy, self._losing, self._biased = noisy, losing, biased

    def begin(self, rows: np.ndarray, key: np.ndarray, delay: np.ndarray, noise: np.ndarray, dropout: np.ndarray, bias: np.ndarray) -> None:
        """Begin episodes in worlds ``rows`` (K,).

        Args:
            rows: Worlds.
            key: (K,) int64, what their noise is drawn by.
            delay: (K,) steps.
            noise: (K,) standard deviation.
            dropout: (K,) probability.
            bias: (K, D) or (K, 1).
        """
        self._key[rows], self._time[rows], self.lost[rows] = key, 0, 0
        self._deviation[rows], self._chance[rows], self._bias[rows] = noise, dropout, bias
        if self._ring is not None:
            self._ring.begin(rows, delay)

    def send(self, rows: np.ndarray, values: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return what arrives (K, D) of commands ``values`` (K, D) in worlds ``rows`` (K,).

        ``before`` (D,) bool: where the actuators had 0 before the first command (rates, increments, efforts); elsewhere that command itself.
        """
        time = self._time[rows]
        values = self._loses(rows, time, values)
        if self._ring is not None:
            first = np.flatnonzero(time == 0)
            if first.size:
                self._ring.fill(rows[first], np.where(before, 0, values[first]).astype(values.dtype))
            values = self._ring.pass_through(rows, time, values)
        values = self._disturbs(rows, time, values)
        self._time[rows] += 1
        return values

    def read(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return what is read (K, D) of true ``values`` (K, D) in worlds ``rows`` (K,)."""
        time = self._time[rows]
        if self._ring is not None:
            first = np.flatnonzero(time == 0)
            if first.size:
                self._ring.fill(rows[first], values[first])
            values = self._ring.pass_through(rows, time, values)
        values = self._loses(rows, time, self._disturbs(rows, time, values))
        self._time[rows] += 1
        return values

    def _disturbs(self, rows: np.ndarray, time: np.ndarray, values: np.ndarray) -> np.ndarray:
        if not (self._noisy or self._biased):
            return values
        out = values.astype(np.float64) + self._bias[rows]
        if self._noisy:
            out += self._deviation[rows][:, None] * step_normals(self._key[rows], time, self.width)
        return np.clip(out.astype(values.dtype), self.low, self.high)

    def _loses(self, rows: np.ndarray, time: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Repeat the last value where one is lost; the first of an episode never is."""
        if not self._losing:
            return values
        lost = (step_uniform(self._key[rows], time) < self._chance[rows]) & (time > 0)
        values = np.where(lost[:, None], self._last[rows], values)
        self._last[rows] = values
        self.lost[rows] += lost
        return values
