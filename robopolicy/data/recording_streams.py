"""Streams of one recording brought together by their stamps: short histories, the sample for a row's time, and how far off it was.

Every stream (a camera, the joints, ...) has a rate and a delay of its own. A row of the data set has a time, and takes of
each stream either the newest sample that had been captured by then (what a policy would have seen) or the nearest one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.spec import InputError, suggest

SYNCHRONISATIONS = ("before", "nearest")


@dataclass(frozen=True)
class Skew:
    """Distance between the rows' times and the stamps of the samples that they took, of one stream.

    Attributes:
        mean_ms, p99_ms, max_ms: Of its absolute value.
    """

    mean_ms: float
    p99_ms: float
    max_ms: float

    @staticmethod
    def of(row_ns: np.ndarray, stamp_ns: np.ndarray) -> Skew:
        """Return the skew of rows (T,) and stamps (T,), ns; T at least 1."""
        ms = np.abs(np.asarray(row_ns, np.int64) - np.asarray(stamp_ns, np.int64)) / 1e6
        return Skew(float(ms.mean()), float(np.quantile(ms, 0.99)), float(ms.max()))


@dataclass(frozen=True)
class Sample:
    """One sample: when it was captured, ns, and what it is."""

    stamp_ns: int
    value: Any


class StreamHistory:
    """The last samples of one stream, in the order of their stamps.

    Args:
        capacity: Samples to keep at most; the oldest go first.

    Attributes:
        stamps: Of every new sample since the last :meth:`restart`, ns.
        backwards: Samples that were older than the one before them and were left out.
        overrun: Samples that went before they were :meth:`forgotten <forget>`, because there were more than fit.
    """

    def __init__(self, capacity: int = 1024) -> None:
        if capacity < 2:
            raise ValueError(f"a history of {capacity} samples has no two to choose from")
        self.capacity = capacity
        self._stamps: list[int] = []
        self._values: list[Any] = []
        self.restart()

    def restart(self) -> None:
        """Forget every sample and count anew."""
        self._stamps.clear()
        self._values.clear()
        self.stamps: list[int] = []
        self.backwards = self.overrun = 0

    def add(self, stamp_ns: int, value: Any) -> bool:
        """Take a sample; returns whether it is new: one with the stamp of the last is the same, an older one is left out."""
        if self._stamps and stamp_ns <= self._stamps[-1]:
            self.backwards += stamp_ns < self._stamps[-1]
            return False
        self._stamps.append(stamp_ns)
        self._values.append(value)
        self.stamps.append(stamp_ns)
        if len(self._stamps) > self.capacity:
            del self._stamps[0], self._values[0]
            self.overrun += 1
        return True

    def __len__(self) -> int:
        """Return how many samples are kept."""
        return len(self._stamps)

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest sample; None: there is none."""
        return self._stamps[-1] if self._stamps else None

    def before(self, time_ns: int) -> Sample | None:
        """Return the newest sample captured at ``time_ns`` or before; where all are younger, the oldest; None: there is none."""
        if not self._stamps:
            return None
        at = max(bisect_right(self._stamps, time_ns) - 1, 0)
        return Sample(self._stamps[at], self._values[at])

    def nearest(self, time_ns: int) -> Sample | None:
        """Return the sample captured nearest to ``time_ns``, of two as near the older; None: there is none."""
        found = self.before(time_ns)
        if found is None:
            return None
        after = bisect_right(self._stamps, time_ns)
        if after < len(self._stamps) and abs(self._stamps[after] - time_ns) < abs(found.stamp_ns - time_ns):
            return Sample(self._stamps[after], self._values[after])
        return found

    def forget(self, time_ns: int) -> Any:
        """Drop what no row of ``time_ns`` or later can take; returns the oldest value that is left, None: there is none."""
        at = max(bisect_right(self._stamps, time_ns) - 1, 0)
        del self._stamps[:at], self._values[:at]
        return self._values[0] if self._values else None


class Synchroniser:
    """Chooses the sample of every stream for a row.

    Args:
        streams: Names.
        how: ``before`` or ``nearest``.
        wait_ns: How much later than a row's time samples are still waited for.
        patient: Whether ``before`` waits, too: samples may come later than others that were captured after them, as in a bag.
        capacity: Of every history, by name; streams that are not named keep 1024.

    Attributes:
        histories: Stream -> history.
        now_ns: Latest time that was said.

    Raises:
        InputError: for an unknown ``how``.
    """

    def __init__(
        self, streams: Iterable[str], how: str = "before", wait_ns: int = 100_000_000, capacity: Mapping[str, int] | None = None, patient: bool = False
    ) -> None:
        if how not in SYNCHRONISATIONS:
            raise InputError(f"sync: {how!r} is unknown{suggest(how, SYNCHRONISATIONS)}")
        self.how, self.wait_ns, self.now_ns, self._waits = how, wait_ns, 0, patient or how == "nearest"
        self.histories = {name: StreamHistory((capacity or {}).get(name, 1024)) for name in streams}

    def restart(self) -> None:
        """Begin an episode."""
        self.now_ns = 0
        for history in self.histories.values():
            history.restart()

    def settled(self, time_ns: int) -> bool:
        """Whether no later sample could be a better one for a row of ``time_ns``, or none is waited for any more."""
        if not self._waits or self.now_ns >= time_ns + self.wait_ns:
            return True
        return all(history.newest_ns is not None and history.newest_ns >= time_ns for history in self.histories.values())

    def choose(self, time_ns: int) -> dict[str, Sample] | None:
        """Return stream -> sample for a row of ``time_ns``; None while a stream has none at all."""
        found = {name: history.before(time_ns) if self.how == "before" else history.nearest(time_ns) for name, history in self.histories.items()}
        chosen = {name: sample for name, sample in found.items() if sample is not None}
        return chosen if len(chosen) == len(found) else None


class RowClock:
    """Says which of many steps make a row, where rows are fewer than steps.

    Args:
        interval_ns: Between two rows; 0: every step makes one.
    """

    EARLY = 0.25  # of the interval: a step that comes so much early is that row's

    def __init__(self, interval_ns: int) -> None:
        self.interval_ns = interval_ns
        self._due_ns: int | None = None

    def due(self, time_ns: int) -> bool:
        """Return whether a step of this time makes a row; after a pause rows begin anew, none is made up."""
        if not self.interval_ns:
            return True
        if self._due_ns is not None and time_ns < self._due_ns - self.EARLY * self.interval_ns:
            return False
        late = self._due_ns is None or time_ns > self._due_ns + self.interval_ns
        self._due_ns = (time_ns if late or self._due_ns is None else self._due_ns) + self.interval_ns
        return True


def missing_samples(stamps_ns: np.ndarray) -> int:
    """Return how many samples a stream seems to have lost, from its stamps (T,): the gaps, in units of the median interval."""
    intervals = np.diff(np.asarray(stamps_ns, np.int64))
    if len(intervals) < 2:
        return 0
    median = float(np.median(intervals))
    return int(np.maximum(np.rint(intervals / max(median, 1.0)).astype(np.int64) - 1, 0).sum())
