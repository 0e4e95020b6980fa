"""Delays, from how one motion follows another: commands and joints (actuation), joints and pictures (camera).

What is observed is explained by what led to it, shifted back by a delay, through any smooth map: a regression for every
delay that is tried, and the one that leaves the least unexplained. For one number that follows another this is the peak of
their cross-correlation; for pictures nothing need be known of where the camera is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.spec import InputError

_COARSE_S, _FINE_S = 0.004, 0.0005
_PARTS = 3  # directions in which joints move, at most
_STILL = 1e-3  # rad or m: less is no motion
_EXPLAINED = 0.9  # less is no answer
FEWEST = 30


@dataclass(frozen=True)
class Delay:
    """How late one motion follows another.

    Attributes:
        seconds: The delay; above zero: the observed comes later than its stamps say.
        error: Standard error, s.
        correlation: Of the observed motion with what explains it, 0 to 1.
        samples: Observations used.
    """

    seconds: float
    error: float
    correlation: float
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {"seconds": self.seconds, "standard_error": self.error, "correlation": self.correlation, "samples": self.samples}


def delay_between(
    lead_s: np.ndarray, lead: np.ndarray, seen_s: np.ndarray, seen: np.ndarray, longest_s: float = 0.5, earliest_s: float = -0.1, curved: bool = False
) -> Delay:
    """Return how late ``seen`` follows ``lead``.

    Args:
        lead_s: (T,) s, rising.
        lead: (T, n) what leads, sampled densely.
        seen_s: (S,) s, on the same clock.
        seen: (S, m) what follows.
        longest_s: Longest delay that is tried.
        earliest_s: Shortest one; below zero: what follows is stamped too late.
        curved: Whether squares of the leading motion are needed too (pictures of an arm).

    Raises:
        InputError: too little motion or too few samples, or one does not follow the other.
    """
    parts = _directions(lead, curved)
    inside = (seen_s - longest_s >= lead_s[0]) & (seen_s - earliest_s <= lead_s[-1])
    seen_s, seen = seen_s[inside], seen[inside]
    if len(seen_s) < FEWEST:
        raise InputError(f"calibrate latency: {len(seen_s)} samples with {longest_s:g} s of motion before them, expected {FEWEST} or more")
    centred = seen - seen.mean(axis=0)
    total = float((centred**2).sum())
    if total < 1e-12:
        raise InputError("calibrate latency: what is observed does not move")

    def unexplained(delay: float) -> float:
        moved = np.stack([np.interp(seen_s - delay, lead_s, column) for column in parts.T], axis=1)
        moved -= moved.mean(axis=0)
        fit, *_ = np.linalg.lstsq(moved, centred, rcond=1e-9)
        return float(((centred - moved @ fit) ** 2).sum()) / total

    coarse = np.arange(earliest_s, longest_s + _COARSE_S, _COARSE_S)
    left = np.array([unexplained(d) for d in coarse])
    best = int(left.argmin())
    if best in (0, len(coarse) - 1):
        raise InputError(f"calibrate latency: no delay between {earliest_s:g} and {longest_s:g} s explains the motion best; move faster, back and forth")
    fine = np.arange(coarse[best - 1], coarse[best + 1] + _FINE_S / 2, _FINE_S)
    around = np.array([unexplained(d) for d in fine])
    middle = fine[int(around.argmin())]
    a, b, c = np.polyfit(fine - middle, around, 2)
    least = max(float(c - b * b / (4 * a)), 0.0) if a > 0 else float(around.min())
    seconds = float(middle - b / (2 * a)) if a > 0 else float(middle)
    correlation = float(np.sqrt(max(1 - least, 0.0)))
    if 1 - least < _EXPLAINED:
        raise InputError(f"calibrate latency: one motion explains {100 * (1 - least):.0f} % of the other only (90 % expected): move one thing, back and forth")
    freedom = max(seen.size - 2 * parts.shape[1], 1)
    error = float(np.sqrt(max(least, 1e-12) / freedom / a)) if a > 0 else _COARSE_S
    return Delay(seconds, error, correlation, len(seen_s))


def actuation_delay(commanded_s: np.ndarray, commanded: np.ndarray, measured_s: np.ndarray, measured: np.ndarray, longest_s: float = 0.5) -> Delay:
    """Return how late the joints follow their commands: transport, controller and servo together.

    Args:
        commanded_s: (C,) s.
        commanded: (C, n) rad or m.
        measured_s: (T,) s.
        measured: (T, n) rad or m.
        longest_s: Longest delay that is tried.

    Raises:
        InputError: see :func:`delay_between`.
    """
    moving = np.ptp(commanded, axis=0) > _STILL
    if not moving.any():
        raise InputError("calibrate latency: no joint was commanded to move")
    return delay_between(commanded_s, commanded[:, moving], measured_s, measured[:, moving], longest_s)


def camera_delay(joints_s: np.ndarray, joints: np.ndarray, taken_s: np.ndarray, motion: np.ndarray, longest_s: float = 0.5) -> Delay:
    """Return how much earlier pictures were taken than their stamps say.

    Args:
        joints_s: (T,) s.
        joints: (T, n) measured, rad or m.
        taken_s: (S,) stamps of the pictures, s.
        motion: (S, m) what moves in them, px, see :func:`picture_motion`.
        longest_s: Longest delay that is tried.

    Raises:
        InputError: see :func:`delay_between`.
    """
    return delay_between(joints_s, joints, taken_s, motion, longest_s, curved=True)


def picture_motion(seen: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return which pictures are of use (S,) and how the board moves in them, (S, 2 k) px: the corners that all of them show.

    Args:
        seen: Corners of the board in every picture, or None.

    Raises:
        InputError: if the board is seen too rarely.
    """
    used = [k for k, one in enumerate(seen) if one is not None]
    if len(used) < FEWEST:
        raise InputError(f"calibrate latency: the board was found in {len(used)} pictures, expected {FEWEST} or more: move it more slowly or light it better")
    counts = np.bincount(np.concatenate([seen[k].ids for k in used]))
    common = np.flatnonzero(counts >= 0.9 * len(used))
    if len(common) < 2:
        raise InputError("calibrate latency: no two corners of the board stay in view; move it less far")
    used = [k for k in used if np.isin(common, seen[k].ids).all()]
    rows = [seen[k].points[np.searchsorted(seen[k].ids, common)].ravel() for k in used]
    return np.array(used), np.array(rows)


def _directions(lead: np.ndarray, curved: bool) -> np.ndarray:
    """Return the few directions (T, k) in which ``lead`` (T, n) moves, and their products if the map is ``curved``."""
    centred = lead - lead.mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    kept = [k for k in range(min(_PARTS if curved else len(sizes), len(sizes))) if sizes[k] > max(0.02 * sizes[0], _STILL * np.sqrt(len(lead)))]
    if not kept:
        raise InputError("calibrate latency: the joints do not move")
    parts = centred @ directions[kept].T
    if curved:
        products = [parts[:, i] * parts[:, j] for i in range(len(kept)) for j in range(i, len(kept))]
        parts = np.concatenate([parts, np.stack(products, axis=1)], axis=1)
    return parts
