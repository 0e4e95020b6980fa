"""How well a reward classifier tells success: per frame, and per episode with intervals, since frames of an episode are alike."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from robopolicy.evaluation.statistics import wilson


def auroc(score: np.ndarray, label: np.ndarray) -> float:
    """Return the probability that a random positive scores higher than a random negative, ties counting half (Mann and Whitney 1947).

    Args:
        score: (F,) any numbers.
        label: (F,) bool.

    Returns:
        In [0, 1]; NaN where one of the two kinds is absent.
    """
    score, label = np.asarray(score, np.float64), np.asarray(label, bool)
    positives, negatives = int(label.sum()), int((~label).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2.0)[inverse]  # mean rank of equal scores
    return float((ranks[label].sum() - positives * (positives + 1) / 2) / (positives * negatives))


@dataclass(frozen=True)
class Share:
    """``count`` of ``total`` with the Wilson interval of their share, 95 %."""

    count: int
    total: int

    @property
    def rate(self) -> float:
        """The share; 0 of none."""
        return self.count / max(self.total, 1)

    def describe(self) -> dict[str, Any]:
        """Return count, total, rate and its interval."""
        low, high = wilson(self.count, self.total) if self.total else (0.0, 1.0)
        return {**asdict(self), "rate": self.rate, "low": low, "high": high}

    def __str__(self) -> str:
        low, high = wilson(self.count, self.total) if self.total else (0.0, 1.0)
        return f"{self.rate:.2f} [{low:.2f}, {high:.2f}] ({self.count} of {self.total})"


@dataclass(frozen=True)
class Quality:
    """What a classifier does on episodes that it was not trained on.

    Attributes:
        frames: Frames seen.
        accuracy: Share of frames decided rightly.
        balanced_accuracy: Mean of the shares among success frames and among the others.
        auroc: See :func:`auroc`.
        found: Episodes with success in which it says so in at least one success frame.
        false_alarms: Episodes in which it says success before the first success, or without any.
    """

    frames: int
    accuracy: float
    balanced_accuracy: float
    auroc: float
    found: Share
    false_alarms: Share

    def describe(self) -> dict[str, Any]:
        """Return all, JSON-ready; what cannot be said is None."""
        plain = {name: value for name, value in asdict(self).items() if name not in ("found", "false_alarms")}
        plain = {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in plain.items()}
        return {**plain, "found": self.found.describe(), "false_alarms": self.false_alarms.describe()}


def quality(probability: np.ndarray, label: np.ndarray, episode: np.ndarray, threshold: float = 0.5) -> Quality:
    """Judge decisions at ``threshold``.

    Args:
        probability: (F,) of success.
        label: (F,) bool, whether there was success.
        episode: (F,) which episode each frame is of; frames of one in the order of time.
        threshold: Probability from which success is said.
    """
    said, label = np.asarray(probability) >= threshold, np.asarray(label, bool)
    right = said == label
    shares = [float(right[kind].mean()) for kind in (label, ~label) if kind.any()]
    found = successes = alarms = 0
    episodes = np.unique(episode)
    for one in episodes:
        mine = episode == one
        first = int(np.argmax(label[mine])) if label[mine].any() else int(mine.sum())
        successes += bool(label[mine].any())
        found += bool((said[mine] & label[mine]).any())
        alarms += bool(said[mine][:first].any())
    return Quality(len(label), float(right.mean()), float(np.mean(shares)), auroc(probability, label), Share(found, successes), Share(alarms, len(episodes)))
