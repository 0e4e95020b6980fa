"""Which initial states will fail: a smooth predictor learnt from a few hundred rollouts, of which a handful failed.

A dozen failures teach little, but every rollout says how hard its state was: how long it took, what it scored. So the failures and
these margins are each regressed on what the reset shows, by kernel ridge regression whose width and penalty are chosen by the
closed form of leave-one-out, and a small logistic regression turns the leave-one-out predictions into a chance to fail. Nothing
depends on the predictor being right (see ``robopolicy.evaluation.failures``); the better it is, the fewer rollouts are needed.
"""

from __future__ import annotations

import numpy as np

from policies.spec import InputError
from robopolicy.evaluation.failures import Experience, Outcomes

_LANDMARKS = 100  # centres of the kernel (Nystroem)
_WIDTHS = (0.5, 1.0, 2.0)  # of the kernel, in units of sqrt(dimension) of standardised features
_PENALTIES = tuple(10.0**k for k in np.arange(-4.0, 3.1, 1.0))
_SAME = 0.999  # correlation from which a feature says the same as another
_SHRINK = 0.5  # penalty of the logistic regression's slopes


def standardise(features: np.ndarray) -> np.ndarray:
    """Return features (M, d') of zero mean and unit deviation, without those that are constant or say what an earlier one says.

    Args:
        features: (M, d) float.
    """
    features = np.asarray(features, np.float64)
    mean, spread = features.mean(0), features.std(0)
    varied = spread > 1e-9 * np.maximum(1.0, np.abs(mean))
    scaled = (features[:, varied] - mean[varied]) / spread[varied]
    alike = np.abs(scaled.T @ scaled) / len(scaled) > _SAME
    kept = [i for i in range(scaled.shape[1]) if not alike[i, :i].any()]
    return scaled[:, kept]


def predict(features: np.ndarray, rolled: np.ndarray, outcomes: Outcomes, experience: Experience | None = None) -> np.ndarray:
    """Return every state's chance to fail (M,) in (0, 1); for those rolled out it is made without their own outcome.

    Args:
        features: (M, d) of all states.
        rolled: (n,) places that were rolled out; n may be 0 with experience.
        outcomes: What they came to.
        experience: Rollouts of other policies. Where it is difficult is learnt from all together, how often this policy fails from its own.

    Raises:
        InputError: if features or margins of the experience are others than these.
    """
    pool, own = len(features), len(rolled)
    failed, margins = np.asarray(outcomes.failed, np.float64), np.asarray(outcomes.margins, np.float64)
    if experience is not None:
        features, margins = _together("features", features, experience.features), _together("margins", margins, experience.outcomes.margins)
        failed = np.concatenate([failed, np.asarray(experience.outcomes.failed, np.float64)])
        rolled = np.concatenate([rolled, np.arange(pool, len(features))])
    x, targets = standardise(features), np.column_stack([failed, margins])
    targets = targets[:, targets.std(0) > 1e-9]
    base = (failed.sum() + 0.5) / (len(failed) + 1.0)
    if not targets.shape[1] or not x.shape[1]:
        return np.full(pool, base)
    everywhere, held_out = ridge(x, rolled, (targets - targets.mean(0)) / targets.std(0))
    middle, spread = held_out.mean(0), held_out.std(0) + 1e-12
    trained, inputs = (held_out - middle) / spread, np.clip((everywhere[:pool] - middle) / spread, -8, 8)
    if experience is not None:  # which of the policies it was
        mine = (np.arange(len(failed)) < own) - own / len(failed)
        trained, inputs = np.column_stack([trained, mine]), np.column_stack([inputs, np.full(pool, 1.0 - own / len(failed))])
    slopes = logistic(trained, failed)
    out = sigmoid(slopes[0] + inputs @ slopes[1:])
    out[rolled[:own]] = sigmoid(slopes[0] + trained[:own] @ slopes[1:])
    return out


def _together(what: str, own: np.ndarray, others: np.ndarray) -> np.ndarray:
    own, others = np.asarray(own, np.float64), np.asarray(others, np.float64)
    if others.ndim != 2 or others.shape[1] != own.shape[1]:
        raise InputError(f"failures: {what} of the experience: expected (k, {own.shape[1]}) as of the pool, found {others.shape}")
    return np.concatenate([own, others])


def ridge(x: np.ndarray, rolled: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regress targets on states by kernel ridge regression, width and penalty of each target by leave-one-out.

    Args:
        x: (M, d) standardised states.
        rolled: (n,) places whose targets are known.
        targets: (n, m) of zero mean.

    Returns:
        Predictions (M, m) everywhere, and leave-one-out predictions (n, m) at the places that are known.
    """
    known, count = x[rolled], targets.shape[1]
    least, held_out = np.full(count, np.inf), np.zeros_like(targets)
    centres = known[_landmarks(targets[:, 0])]
    weights = np.zeros((len(_WIDTHS), len(centres), count))
    for number, width in enumerate(_WIDTHS):
        values, vectors = np.linalg.eigh(_kernel(centres, centres, width))
        sound = values > 1e-8 * values[-1]
        root = vectors[:, sound] / np.sqrt(values[sound])
        left, singular, right = np.linalg.svd(_kernel(known, centres, width) @ root, full_matrices=False)
        inner = left.T @ targets
        for penalty in _PENALTIES:
            gain = singular**2 / (singular**2 + penalty)
            leverage = np.minimum(left**2 @ gain + 1.0 / len(known), 0.99)
            loo = targets - (targets - left @ (gain[:, None] * inner)) / (1 - leverage[:, None])
            errors = ((targets - loo) ** 2).mean(0)
            for k in np.flatnonzero(errors < least - 1e-12):
                least[k], held_out[:, k] = errors[k], loo[:, k]
                weights[:, :, k] = 0.0
                weights[number, :, k] = root @ (right.T @ (singular / (singular**2 + penalty) * inner[:, k]))
    everywhere, pool, middle = np.zeros((len(x), count)), x.astype(np.float32), centres.astype(np.float32)
    for number, width in enumerate(_WIDTHS):
        if weights[number].any():
            everywhere += _kernel(pool, middle, width) @ weights[number].astype(np.float32)  # half the time; rounding only moves cuts of strata
    return everywhere, held_out


def _landmarks(target: np.ndarray) -> np.ndarray:
    """Return which rollouts are centres of the kernel: half of them where the target is most unusual, the others evenly."""
    if len(target) <= _LANDMARKS:
        return np.arange(len(target))
    order, half = np.argsort(-np.abs(target), kind="stable"), _LANDMARKS // 2
    evenly = np.linspace(half, len(target) - 1, _LANDMARKS - half).astype(np.int64)
    return np.sort(np.concatenate([order[:half], order[evenly]]))


def _kernel(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """Return exp(-|a - b|^2 / (2 width^2 d)) (A, B)."""
    scale = 1.0 / (width**2 * a.shape[1])
    out = a @ (scale * b.T)
    out -= (0.5 * scale) * (a**2).sum(1)[:, None]
    out -= (0.5 * scale) * (b**2).sum(1)
    return np.exp(out, out=out)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), elementwise."""
    return 1.0 / (1.0 + np.exp(-np.clip(x, -40.0, 40.0)))


def logistic(inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return intercept and slopes (1 + m,) of a logistic regression with a penalty on the slopes, by Newton's method.

    One imagined rollout at the mean, half failed, keeps the intercept finite where none or all failed.

    Args:
        inputs: (n, m) standardised.
        labels: (n,) 0 or 1.
    """
    design = np.column_stack([np.ones(len(inputs) + 1), np.vstack([inputs, np.zeros(inputs.shape[1])])])
    seen = np.append(labels, 0.5)
    penalty = np.full(design.shape[1], _SHRINK)
    penalty[0] = 1e-6
    slopes = np.zeros(design.shape[1])
    slopes[0] = np.log((seen.sum()) / (len(seen) - seen.sum()))
    for _ in range(25):
        p = sigmoid(design @ slopes)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, design.T @ (seen - p) - penalty * slopes)
        slopes += np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-8:
            break
    return slopes
