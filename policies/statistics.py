"""Running statistics of data set fields: exact moments and streaming quantiles, mergeable, numpy only.

Mean and variance are merged pairwise (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance"),
so a large mean does not swallow a small deviation. Quantiles are exact while the data fit a small buffer; beyond it they
come from a histogram with dyadic bins: the width is a power of two and bin edges are its multiples, so that widening
the bins merges neighbours exactly and neither the order of updates nor merging changes the counts.

Results have the form of LeRobot's ``stats.json``: min, max, mean, std (of the population), count and q01 ... q99.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from policies.spec import InputError

#: Quantiles that are kept, by their name in ``stats.json``.
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
#: One element's statistics, each an array of the field's shape; ``count`` is (1,) int64.
Stats = dict[str, np.ndarray]

_NUM_BINS = 8192
_MIN_EXPONENT = -1000  # of the bin width: keeps 2**exponent a normal float64
_CHUNK = 1 << 16  # rows handled at once: bounds the temporaries


class _DyadicHistogram:
    """Counts of one element in bins [i * 2**exponent, (i + 1) * 2**exponent)."""

    def __init__(self) -> None:
        self.exponent = _MIN_EXPONENT
        self.first = 0
        self.counts = np.zeros(0, np.int64)

    def add(self, values: np.ndarray) -> None:
        low, high = float(values.min()), float(values.max())
        # Indices stay below 2**51, where float64 still has every integer.
        largest = max(abs(low), abs(high), 2.0**-900)
        self._coarsen(int(np.ceil(np.log2(largest))) - 51)
        while self._span(np.floor(np.ldexp(low, -self.exponent)), np.floor(np.ldexp(high, -self.exponent))) > _NUM_BINS:
            self._coarsen(self.exponent + 1)
        index = np.floor(np.ldexp(values, -self.exponent)).astype(np.int64)
        first = int(index.min())
        self._insert(first, np.bincount(index - first))

    def merge(self, other: _DyadicHistogram) -> None:
        if not other.counts.size:
            return
        copy = _DyadicHistogram()
        copy.exponent, copy.first, copy.counts = other.exponent, other.first, other.counts
        self._coarsen(copy.exponent)
        copy._coarsen(self.exponent)
        while self._span(copy.first, copy.first + copy.counts.size - 1) > _NUM_BINS:
            self._coarsen(self.exponent + 1)
            copy._coarsen(self.exponent)
        self._insert(copy.first, copy.counts)

    def quantile(self, q: float, low: float, high: float) -> float:
        """Return the ``q`` quantile, linear inside a bin, between the exact ``low`` and ``high``."""
        cumulative = np.cumsum(self.counts)
        rank = q * (cumulative[-1] - 1) + 0.5
        i = min(int(np.searchsorted(cumulative, rank)), self.counts.size - 1)
        inside = (rank - (cumulative[i] - self.counts[i])) / max(int(self.counts[i]), 1)
        return float(np.clip(np.ldexp(self.first + i + inside, self.exponent), low, high))

    def _span(self, first: float, last: float) -> int:
        """Return the number of bins that hold both the present counts and the bins ``first`` to ``last``."""
        if self.counts.size:
            first, last = min(first, self.first), max(last, self.first + self.counts.size - 1)
        return int(last) - int(first) + 1

    def _coarsen(self, exponent: int) -> None:
        steps = exponent - self.exponent
        if steps <= 0:
            return
        self.exponent = exponent
        if self.counts.size:
            shift = min(steps, 62)
            index = (np.arange(self.counts.size) + self.first) >> shift
            self.first = int(index[0])
            merged = np.zeros(int(index[-1]) - self.first + 1, np.int64)
            np.add.at(merged, index - self.first, self.counts)
            self.counts = merged

    def _insert(self, first: int, counts: np.ndarray) -> None:
        if not self.counts.size:
            self.first, self.counts = first, counts.astype(np.int64)
            return
        start = min(self.first, first)
        stop = max(self.first + self.counts.size, first + counts.size)
        merged = np.zeros(stop - start, np.int64)
        merged[self.first - start : self.first - start + self.counts.size] += self.counts
        merged[first - start : first - start + counts.size] += counts
        self.first, self.counts = start, merged


class RunningStats:
    """Statistics of one field, updated by batches.

    Args:
        shape: Shape of one row, e.g. ``(7,)``; ``(H, W, 3)`` for an image.
        image: uint8 images: statistics per channel over [0, 1], shaped (3, 1, 1) as LeRobot stores them. ``count``
            is then the number of images.
        exact_rows: Quantiles are exact up to this many rows, beyond it within 2 / 8192 of the range.
    """

    def __init__(self, shape: Sequence[int], image: bool = False, exact_rows: int = 65536) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.image = image
        self.exact_rows = exact_rows
        self.count = 0
        size = self.shape[-1] if image else int(np.prod(self.shape, dtype=np.int64))
        self._values = 0  # numbers per element: rows, or pixels of all images
        self._min, self._max = np.full(size, np.inf), np.full(size, -np.inf)
        self._mean, self._m2 = np.zeros(size), np.zeros(size)
        self._levels = np.zeros((size, 256), np.int64)  # images: the whole distribution
        self._buffer: list[np.ndarray] | None = None if image else []
        self._histograms = [_DyadicHistogram() for _ in range(0 if image else size)]

    def update(self, array: np.ndarray) -> None:
        """Add rows.

        Args:
            array: (N, *shape); numbers or bool, uint8 for images.

        Raises:
            InputError: if the shape differs or a number is not finite; names the row and the element.
        """
        array = np.asarray(array)
        if array.shape[1:] != self.shape or array.ndim != len(self.shape) + 1:
            raise InputError(f"statistics of shape {self.shape}: expected rows (N, {', '.join(map(str, self.shape))}), found {array.shape}")
        if self.image:
            self._update_image(array)
            return
        for start in range(0, len(array), _CHUNK):
            rows = array[start : start + _CHUNK].reshape(-1, self._mean.size).astype(np.float64)
            bad = np.argwhere(~np.isfinite(rows))
            if len(bad):
                row, element = (int(n) for n in bad[0])
                raise InputError(f"statistics: row {start + row} element {element} is {rows[row, element]}, expected a finite number")
            self._update_moments(len(rows), rows.mean(0), ((rows - rows.mean(0)) ** 2).sum(0), rows.min(0), rows.max(0))
            self.count += len(rows)
            self._update_quantiles([rows])

    def merge(self, other: RunningStats) -> None:
        """Add everything that ``other`` has seen. Raises InputError if it is of another shape."""
        if (self.shape, self.image) != (other.shape, other.image):
            raise InputError(f"statistics of shape {self.shape} cannot be merged with those of shape {other.shape}")
        if not other.count:
            return
        self._update_moments(other._values, other._mean, other._m2, other._min, other._max)
        self.count += other.count
        self._levels += other._levels
        if self.image:
            return
        if other._buffer is not None:
            self._update_quantiles(other._buffer)
            return
        self._spill()
        for mine, theirs in zip(self._histograms, other._histograms, strict=True):
            mine.merge(theirs)

    def result(self) -> Stats:
        """Return min, max, mean, std, q01 ... q99 (float64, field's shape) and count ((1,) int64).

        Raises:
            InputError: if nothing was added.
        """
        if not self.count:
            raise InputError("statistics of no rows at all: the data set has no frames")
        shape = (self.shape[-1], 1, 1) if self.image else self.shape
        scale = 255.0 if self.image else 1.0
        values = {"min": self._min, "max": self._max, "mean": self._mean, "std": np.sqrt(self._m2 / self._values)}
        values["mean"] = np.clip(self._mean, self._min, self._max)  # rounding may leave the range by one ulp
        for name, row in zip(QUANTILES, self._quantiles(), strict=True):
            values[name] = row
        out = {name: (value / scale).reshape(shape) for name, value in values.items()}
        out["count"] = np.array([self.count], np.int64)
        return out

    def _update_image(self, array: np.ndarray) -> None:
        if array.dtype != np.uint8:
            raise InputError(f"statistics of images: expected uint8 in [0, 255], found {array.dtype}")
        if not array.size:
            return
        for channel in range(self.shape[-1]):
            self._levels[channel] += np.bincount(array[..., channel].ravel(), minlength=256)
        self.count += len(array)
        self._values = int(self._levels[0].sum())
        level = np.arange(256.0)
        self._mean = self._levels @ level / self._values
        self._m2 = (self._levels * (level - self._mean[:, None]) ** 2).sum(1)
        seen = self._levels > 0
        self._min, self._max = seen.argmax(1).astype(np.float64), 255.0 - seen[:, ::-1].argmax(1)

    def _update_moments(self, n: int, mean: np.ndarray, m2: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        total = self._values + n
        delta = mean - self._mean
        self._mean = self._mean + delta * (n / total)
        self._m2 = self._m2 + m2 + delta**2 * (self._values * n / total)
        self._values = total
        self._min, self._max = np.minimum(self._min, low), np.maximum(self._max, high)

    def _update_quantiles(self, batches: Sequence[np.ndarray]) -> None:
        if self._buffer is not None:
            self._buffer.extend(np.array(rows) for rows in batches)
            if self.count > self.exact_rows:
                self._spill()
            return
        for rows in batches:
            for element, histogram in enumerate(self._histograms):
                histogram.add(rows[:, element])

    def _spill(self) -> None:
        """Move the buffered rows into the histograms."""
        batches, self._buffer = self._buffer or [], None
        if batches:
            self._update_quantiles([np.concatenate(batches)])

    def _quantiles(self) -> np.ndarray:
        if self.image:
            at = np.array([[q * (self._values - 1)] for q in QUANTILES.values()])
            cumulative = self._levels.cumsum(1)
            lower = np.stack([np.searchsorted(c, np.floor(at[:, 0]), side="right") for c in cumulative], 1)
            upper = np.stack([np.searchsorted(c, np.ceil(at[:, 0]), side="right") for c in cumulative], 1)
            return lower + (upper - lower) * (at - np.floor(at))
        if self._buffer is not None:
            return np.quantile(np.concatenate(self._buffer), list(QUANTILES.values()), axis=0)
        limits = list(zip(self._histograms, self._min, self._max, strict=True))
        return np.array([[h.quantile(q, low, high) for h, low, high in limits] for q in QUANTILES.values()])


def aggregate(parts: Sequence[Mapping[str, np.ndarray]]) -> Stats:
    """Combine the statistics of disjoint parts, e.g. of episodes.

    Exact for min, max, mean, std and count; a quantile is the mean of the parts' quantiles weighted by their counts,
    which is what LeRobot does when it aggregates episodes.

    Raises:
        InputError: if there are no parts.
    """
    if not parts:
        raise InputError("statistics of no episodes at all: the data set has no frames")
    weights = np.array([float(np.asarray(p["count"]).ravel()[0]) for p in parts])
    weights /= weights.sum()

    def weighted(name: str) -> np.ndarray:
        stacked = np.stack([np.asarray(p[name], np.float64) for p in parts])
        return np.tensordot(weights, stacked, axes=1)

    mean = weighted("mean")
    spread = np.stack([np.asarray(p["std"], np.float64) ** 2 + (np.asarray(p["mean"], np.float64) - mean) ** 2 for p in parts])
    out = {
        "min": np.min([np.asarray(p["min"], np.float64) for p in parts], axis=0),
        "max": np.max([np.asarray(p["max"], np.float64) for p in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(np.tensordot(weights, spread, axes=1)),
    }
    out.update({name: weighted(name) for name in QUANTILES if all(name in p for p in parts)})  # older sets have none
    out["count"] = np.array([sum(int(np.asarray(p["count"]).ravel()[0]) for p in parts)], np.int64)
    return out


def stats_to_json(stats: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Return ``stats.json``'s mapping: field -> statistic -> nested lists."""
    return {field: {name: np.asarray(value).tolist() for name, value in one.items()} for field, one in stats.items()}


def stats_from_json(value: Mapping[str, Any]) -> dict[str, Stats]:
    """Return arrays from ``stats.json``'s mapping; the inverse of :func:`stats_to_json`.

    Raises:
        InputError: naming the field and statistic that is not an array of numbers.
    """
    out: dict[str, Stats] = {}
    for field, one in value.items():
        if not isinstance(one, Mapping):
            raise InputError(f"statistics of {field!r}: expected a mapping, found {type(one).__name__}")
        out[field] = {}
        for name, numbers in one.items():
            try:
                out[field][name] = np.asarray(numbers, np.int64 if name == "count" else np.float64)
            except (TypeError, ValueError) as error:
                raise InputError(f"statistics of {field!r}: {name!r} is not an array of numbers") from error
    return out
