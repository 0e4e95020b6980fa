"""Latencies: a bounded histogram for reports, and a moving quantile that decides how early to ask."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

_FINEST_S = 1e-5
_RATIO = 1.1  # width of a bin: quantiles are right to 10 %
_PER_BIN = 1 / math.log(_RATIO)
_BINS = 160  # up to 1e-5 * 1.1^159 = 38 s


class Latency:
    """Durations in seconds; constant memory however many are added."""

    def __init__(self, window: int = 100) -> None:
        self.count = 0
        self.total_s = 0.0
        self.max_s = 0.0
        self._bins = np.zeros(_BINS, np.int64)
        self._recent: deque[float] = deque(maxlen=window)

    def add(self, seconds: float) -> None:
        """Count one duration."""
        seconds = max(float(seconds), 0.0)
        self.count += 1
        self.total_s += seconds
        self.max_s = max(self.max_s, seconds)
        index = 0 if seconds <= _FINEST_S else 1 + int(math.log(seconds / _FINEST_S) * _PER_BIN)
        self._bins[min(index, _BINS - 1)] += 1
        self._recent.append(seconds)

    @property
    def last_s(self) -> float:
        """The newest duration; 0 when empty."""
        return self._recent[-1] if self._recent else 0.0

    def quantile(self, q: float) -> float:
        """Return the ``q`` quantile over everything, in seconds, at most 10 % too high; 0 when empty."""
        if not self.count:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self._bins), max(math.ceil(q * self.count), 1)))
        return min(_FINEST_S * _RATIO**index, self.max_s)

    def recent_quantile(self, q: float) -> float:
        """Return the exact ``q`` quantile (nearest rank above) of the last durations; 0 when empty."""
        if not self._recent:
            return 0.0
        ordered = sorted(self._recent)
        return ordered[min(math.ceil(q * len(ordered)), len(ordered)) - 1] if q > 0 else ordered[0]

    def buckets(self, step: int = 8) -> list[tuple[float, int]]:
        """Return (upper edge in seconds, how many took at most that), cumulative, for every ``step``-th bin: the form of Prometheus."""
        below = np.cumsum(self._bins)
        return [(_FINEST_S * _RATIO**i, int(below[i])) for i in range(step - 1, _BINS - 1, step)]

    def to_dict(self) -> dict[str, Any]:
        """Return count, mean, p50, p90, p99 and max in milliseconds, and the histogram's filled bins (upper edge -> count)."""
        out: dict[str, Any] = {"count": self.count, "mean": round(1e3 * self.total_s / self.count, 4) if self.count else 0.0}
        out.update({f"p{int(100 * q)}": round(1e3 * self.quantile(q), 4) for q in (0.5, 0.9, 0.99)})
        out["max"] = round(1e3 * self.max_s, 4)
        out["histogram"] = [[round(1e3 * _FINEST_S * _RATIO**i, 4), int(n)] for i, n in enumerate(self._bins) if n]
        return out
