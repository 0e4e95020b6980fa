"""Redundant sensors: the median of their readings, and which of them disagree.

With three sensors of which one lies, is silent or is frozen, the median lies between the two honest ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Vote:
    """What the sensors agree on.

    Attributes:
        value: Median of the readings that are numbers (n,); NaN where none is.
        disagrees: (S, n): readings that are no numbers or lie further than the tolerance from the median.
        trusted: (n,): whether more than half of all sensors agree with the median.
    """

    value: np.ndarray
    disagrees: np.ndarray
    trusted: np.ndarray


def vote(readings: np.ndarray, tolerance: float | np.ndarray) -> Vote:
    """Return the vote of ``readings`` (S, n), S sensors of the same n quantities; ``tolerance`` scalar or (n,), same unit.

    The lower median is taken for an even number, so that the value is always one that a sensor has given.
    Raises ValueError for readings of another rank or without a sensor.
    """
    readings = np.asarray(readings, np.float64)
    if readings.ndim != 2 or len(readings) == 0:
        raise ValueError(f"voting: expected readings of shape (S, n), found {readings.shape}")
    sensors = len(readings)
    numbers = np.isfinite(readings)
    ordered = np.sort(np.where(numbers, readings, np.inf), axis=0)  # what is no number goes last
    count = numbers.sum(axis=0)
    middle = np.maximum(count - 1, 0) // 2
    value = np.where(count > 0, np.take_along_axis(ordered, middle[None], axis=0)[0], np.nan)
    with np.errstate(invalid="ignore"):
        disagrees = ~(np.abs(readings - value) <= tolerance)
    return Vote(value, disagrees, 2 * (~disagrees).sum(axis=0) > sensors)
