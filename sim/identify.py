"""System identification: model fields and delays that make the simulation follow recorded motion.

Recordings are cut into windows; fields, delay and latency are common to all of them, the first state of each window is a nuisance of
its own that its noisy readings suggest. All windows and all columns of the Jacobian are worlds of one batch, stepped together. The
readings' noise is estimated from what is left over, and weighs them (feasible generalised least squares).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from policies.spec import InputError
from sim.identify_parameters import DELAY, LATENCY, Parameter, parameters
from sim.identify_rollout import Observed, Rollout, Trajectory, Windows, cut, whole
from sim.identify_solve import Solution, solve
from sim.task import MujocoTask

Told = Callable[[str, int, float], None]
_STEP_Z, _STEP_DELAY, _STEP_POSITION, _STEP_SPEED = 1e-3, 1e-4, 1e-4, 1e-3  # of the central differences; s, rad or m, rad/s or m/s
_ROUNDS = 8  # most estimates of the noise
_SETTLED = 0.03  # relative change of the noise that ends them
_ENOUGH = (1e-5, 1e-4)  # share of the cost, and change of z: far below any standard error
_SCOUT = 6  # steps of each start before the best goes on


@dataclass(frozen=True)
class Settings:
    """How the fit is made.

    Attributes:
        window_s: Length of a window, s; 0: each trajectory as a whole, for tasks that keep a state beside the physics.
        most_windows: More than these are thinned out evenly.
        starts: Places where the search begins: the given one and others drawn around it (factors of up to 3).
        iterations: Most steps of the search, each round.
        longest_delay_s: Of delay and latency.
        held_out: Share of the windows that are not fitted but predicted.
        compare: Fields of the observation that are compared whole, beside the elements that are joint coordinates.
        seed: Of the drawn starts.
    """

    window_s: float = 0.5
    most_windows: int = 60
    starts: int = 3
    iterations: int = 25
    longest_delay_s: float = 0.2
    held_out: float = 0.2
    compare: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Estimate:
    """One fitted number: key, unit, where the search began, what it found, its standard error."""

    key: str
    unit: str
    start: float
    value: float
    standard_error: float
    is_factor: bool


@dataclass
class Fit:
    """What identification found.

    Attributes:
        task: Registered name.
        estimates: One a parameter.
        elements: (D,) names of the compared elements of the observation.
        noise: (D,) their estimated noise, in their units.
        before: (D,) root mean square error of the predictions with the values at the start, first states fitted.
        after: (D,) the same with the values found.
        held_before: (D,) of windows that were not fitted; empty without any.
        held_after: (D,).
        correlation: (P, P) of the estimates.
        condition: Condition number of the scaled information matrix.
        windows: Fitted ones.
        steps: Of a window.
        iterations: Steps of the search, in all.
        converged: Whether the last search ended by itself.
        time: (W, L + 1) s, of the fitted windows in their trajectories.
        trajectory: (W,) which trajectory each is of.
        observed: (W, L + 1, D) readings.
        predicted_before: (W, L + 1, D).
        predicted_after: (W, L + 1, D).
        fields: Of the observation whose elements are compared.
        warnings: One line each: what these trajectories cannot tell.
    """

    task: str
    estimates: list[Estimate]
    elements: tuple[str, ...]
    noise: np.ndarray
    before: np.ndarray
    after: np.ndarray
    held_before: np.ndarray
    held_after: np.ndarray
    correlation: np.ndarray
    condition: float
    windows: int
    steps: int
    iterations: int
    converged: bool
    time: np.ndarray
    trajectory: np.ndarray
    observed: np.ndarray
    predicted_before: np.ndarray
    predicted_after: np.ndarray
    fields: tuple[str, ...]
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the windows, JSON-ready."""
        errors = {n: getattr(self, n).tolist() for n in ("noise", "before", "after", "held_before", "held_after")}
        return {
            "task": self.task,
            "estimates": [asdict(one) for one in self.estimates],
            "errors": {"elements": list(self.elements), **errors},
            "correlation": self.correlation.tolist(),
            "condition": self.condition if math.isfinite(self.condition) else None,
            "warnings": self.warnings,
            "windows": self.windows,
            "steps": self.steps,
            "iterations": self.iterations,
            "converged": self.converged,
            "randomize": self.section(),
        }

    def section(self) -> dict[str, Any]:
        """Return the section ``randomize`` of a recipe that gives every world the fitted values."""
        model: dict[str, Any] = {}
        for one in self.estimates:
            if one.key not in (DELAY, LATENCY):
                model[one.key] = {"set" if not one.is_factor else "scale" if one.unit == "x" else "add": one.value}
        out: dict[str, Any] = {"model": model} if model else {}
        late = {one.key: one.value for one in self.estimates if one.key in (DELAY, LATENCY)}
        if DELAY in late:
            out["actions"] = {"delay": late[DELAY]}
        if LATENCY in late:
            out["sensors"] = {name: {"latency": late[LATENCY]} for name in self.fields}
        return out


class _Problem:
    """Residuals and their derivatives for some windows: predictions of the worlds against what was read, over the noise."""

    def __init__(self, rollout: Rollout, observed: Observed, windows: Windows, wanted: Sequence[Parameter], skipped: int) -> None:
        self.rollout, self.observed, self.windows, self.wanted, self.skipped = rollout, observed, windows, wanted, skipped
        self.first = rollout.start(windows, observed)
        self.spread = np.maximum(windows.observed.std(axis=(0, 1)), 1e-9)  # (D,)
        self.noise = 0.02 * self.spread
        self.steps_z = np.array([_STEP_DELAY if one.selection is None else _STEP_Z for one in wanted])
        half = rollout.tangent // 2
        self.steps_own = np.concatenate([np.full(half, _STEP_POSITION), np.full(half, _STEP_SPEED)])

    @property
    def still(self) -> np.ndarray:
        """(W, M) zeros: first states as they were read."""
        return np.zeros((len(self.windows), self.rollout.tangent))

    def predict(self, z: np.ndarray, own: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return predictions (K, L + 1, D) of the windows ``rows`` (K,) for ``z`` (K, P) and first states ``own`` (K, M)."""
        values, zero = [], np.zeros(len(rows))
        late = {DELAY: zero, LATENCY: zero}
        for k, one in enumerate(self.wanted):
            if one.selection is None:
                late[one.key] = z[:, k]
            else:
                values.append(one.values(z[:, k]))
        return self.rollout.predict(self.windows.pick(rows), self.observed, self.first[rows], own, values, late[DELAY], late[LATENCY])

    def misfit(self, predicted: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return residuals (K, R) of predictions (K, L + 1, D)."""
        return ((predicted - self.windows.observed[rows]) / self.noise)[:, self.skipped :].reshape(len(rows), -1)

    def residuals(self, z: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Return (W, R) for ``z`` (P,) and ``own`` (W, M)."""
        rows = np.arange(len(self.windows))
        return self.misfit(self.predict(np.repeat(z[None], len(rows), axis=0), own, rows), rows)

    def linearized(self, z: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return residuals (W, R) and central differences (W, R, P), (W, R, M); all in one batch of worlds."""
        count, p, m = len(self.windows), len(z), own.shape[1]
        columns = 1 + 2 * (p + m)
        all_z, all_own = np.broadcast_to(z, (columns, count, p)).copy(), np.broadcast_to(own, (columns, count, m)).copy()
        steps = np.concatenate([self.steps_z, self.steps_own])
        for k in range(p + m):
            for side, sign in ((1 + 2 * k, 1.0), (2 + 2 * k, -1.0)):
                (all_z[side, :, k] if k < p else all_own[side, :, k - p])[...] += sign * steps[k]
        rows = np.tile(np.arange(count), columns)
        found = self.misfit(self.predict(all_z.reshape(-1, p), all_own.reshape(-1, m), rows), rows).reshape(columns, count, -1)
        slopes = (found[1::2] - found[2::2]) / (2 * steps[:, None, None])
        return found[0], np.moveaxis(slopes[:p], 0, -1), np.moveaxis(slopes[p:], 0, -1)

    def weigh(self, solution: Solution) -> None:
        """Estimate the noise of each element from what the solution leaves over."""
        rows = np.arange(len(self.windows))
        left = self.misfit(self.predict(np.repeat(solution.shared[None], len(rows), axis=0), solution.own, rows), rows)
        left = left.reshape(len(rows), -1, len(self.spread)) * self.noise
        fitted = (solution.shared.size + solution.own.size) / left.size
        self.noise = np.maximum(np.sqrt((left**2).mean(axis=(0, 1)) / max(1 - fitted, 0.1)), 1e-7 * self.spread)


def identify(task: MujocoTask, trajectories: Sequence[Trajectory], fits: Sequence[str], settings: Settings | None = None, told: Told | None = None) -> Fit:
    """Fit parameters to trajectories.

    Args:
        task: Worlds to predict in: without auto-reset and randomisation; their number says how much is stepped at once.
        trajectories: Recorded episodes at the task's rate.
        fits: What is fitted, see ``sim.identify_parameters.parameter``.
        settings: How.
        told: Called with (stage, steps tried, cost).

    Raises:
        InputError: one line, for what cannot be fitted, trajectories that do not fit the task, or a setting that is no length of time.
    """
    settings = settings or Settings()
    for name, seconds in (("window", settings.window_s), ("longest delay", settings.longest_delay_s)):
        if not 0 <= seconds < math.inf:
            raise InputError(f"identify: {name}: expected a finite number of seconds from 0, found {seconds:g}")
    dt = 1.0 / task.spec.action.rate_hz
    wanted = parameters(fits, task.model, settings.longest_delay_s, dt)
    rollout = Rollout(task, [one.selection for one in wanted if one.selection is not None])
    observed = rollout.probe(settings.compare)
    keys = [one.key for one in wanted]
    before = math.ceil(settings.longest_delay_s / dt) + 1 if DELAY in keys else 0
    skipped = math.ceil(settings.longest_delay_s / dt) if LATENCY in keys else 0
    if settings.window_s:
        steps = max(2, round(settings.window_s / dt)) + skipped
        windows = cut(trajectories, observed, steps, before, settings.most_windows)
    else:
        windows = whole(trajectories[: settings.most_windows], observed, before, task.spec.action.zero_when_held)
    chosen = np.ones(len(windows), bool)
    if settings.held_out > 0 and len(windows) >= 4:
        chosen[np.arange(len(windows)) % max(2, round(1 / settings.held_out)) == 1] = False
    problem = _Problem(rollout, observed, windows.pick(np.flatnonzero(chosen)), wanted, skipped)
    held = _Problem(rollout, observed, windows.pick(np.flatnonzero(~chosen)), wanted, skipped) if not chosen.all() else None
    try:
        best, tried = _search(problem, settings, told)
        return _report(task, problem, held, best, tried, settings)
    finally:
        rollout.restore()


def _search(problem: _Problem, settings: Settings, told: Told | None) -> tuple[Solution, int]:
    """Scout from several starts, go on from the best, estimating the noise between rounds."""
    low, high = (np.array([getattr(one, side) for one in problem.wanted]) for side in ("low", "high"))
    first = np.array([one.first for one in problem.wanted])
    generator = np.random.default_rng(settings.seed)
    starts = [first]
    for _ in range(settings.starts - 1):
        drawn = generator.uniform(-1, 1, len(first)) * math.log(3.0)
        starts.append(np.array([d if one.selection is not None else generator.uniform(0, one.high) for d, one in zip(drawn, problem.wanted, strict=True)]))
    tried, best = 0, None
    for number, given in enumerate(starts):
        start = _looked_for(problem, given)
        stage = f"start {number + 1} of {len(starts)}"
        scouted = _solve(problem, start, problem.still, low, high, min(_SCOUT, settings.iterations), stage, told)
        tried += scouted.iterations
        best = scouted if best is None or scouted.cost < best.cost else best
    assert best is not None  # there is at least one start
    for number in range(_ROUNDS):
        guessed = problem.noise
        problem.weigh(best)
        if number and np.abs(np.log(problem.noise / guessed)).max() < _SETTLED:
            break
        best = _solve(problem, best.shared, problem.still, low, high, settings.iterations, f"round {number + 1}", told)
        tried += best.iterations
    return best, tried


def _solve(problem: _Problem, z: np.ndarray, own: np.ndarray, low: np.ndarray, high: np.ndarray, iterations: int, stage: str, told: Told | None) -> Solution:
    tell = None if told is None else (lambda count, cost: told(stage, count, cost))
    return solve(problem.residuals, problem.linearized, z, own, low, high, iterations, settled=_ENOUGH, told=tell)


def _looked_for(problem: _Problem, start: np.ndarray) -> np.ndarray:
    """Return ``start`` (P,) with the delay and latency, of a grid finer than control steps, that predict best.

    Wrong by more than a step or two they hide what everything else does: a descent would bend masses and dampings to make up for it.
    """
    late = [k for k, one in enumerate(problem.wanted) if one.selection is None]
    if not late:
        return start
    finest = (0.2 if len(late) == 1 else 0.5) * problem.rollout.dt
    ends = [np.append(np.arange(0.0, problem.wanted[k].high, finest), start[k]) for k in late]
    tried = np.repeat(start[None], math.prod(len(end) for end in ends), axis=0)
    tried[:, late] = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, len(late))
    rows = np.tile(np.arange(len(problem.windows)), len(tried))
    predicted = problem.predict(np.repeat(tried, len(problem.windows), axis=0), problem.still[rows], rows)
    costs = (problem.misfit(predicted, rows) ** 2).reshape(len(tried), -1).sum(axis=1)
    return tried[int(np.nanargmin(costs))]


def _predictions(problem: _Problem, z: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions (W, L + 1, D) with ``z`` (P,) and fitted first states, and their root mean square errors (D,)."""
    found = solve(problem.residuals, problem.linearized, z, problem.still, z, z, settings.iterations, settled=_ENOUGH)
    rows = np.arange(len(problem.windows))
    predicted = problem.predict(np.repeat(z[None], len(rows), axis=0), found.own, rows)
    left = (predicted - problem.windows.observed)[:, problem.skipped :]
    return predicted, np.sqrt((left**2).mean(axis=(0, 1)))


def _report(task: MujocoTask, problem: _Problem, held: _Problem | None, best: Solution, tried: int, settings: Settings) -> Fit:
    wanted, windows, dt = problem.wanted, problem.windows, problem.rollout.dt
    first = np.array([one.first for one in wanted])
    scale = np.sqrt(np.maximum(np.diag(best.information), 1e-300))
    scaled = best.information / np.outer(scale, scale)
    spectrum = np.linalg.eigvalsh(scaled)
    condition = float(spectrum[-1] / spectrum[0]) if spectrum[0] > 0 else math.inf
    covariance = np.linalg.pinv(scaled, hermitian=True) / np.outer(scale, scale)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    correlation = covariance / np.maximum(np.outer(deviation, deviation), 1e-300)
    estimates = [
        Estimate(one.key, one.unit, one.value(float(f)), one.value(float(z)), one.deviation(float(z), float(s)), one.is_factor)
        for one, f, z, s in zip(wanted, first, best.shared, deviation, strict=True)
    ]
    predicted_before, before = _predictions(problem, first, settings)
    predicted_after, after = _predictions(problem, best.shared, settings)
    held_before = held_after = np.zeros(0)
    if held is not None:
        held.noise = problem.noise
        held_before, held_after = _predictions(held, first, settings)[1], _predictions(held, best.shared, settings)[1]
    time = (windows.where[:, 1:] + np.arange(windows.steps + 1)[None, :]) * dt
    fit = Fit(
        task.task, estimates, problem.observed.names, problem.noise, before, after, held_before, held_after, correlation, condition,
        len(windows), windows.steps, tried, best.converged, time, windows.where[:, 0], windows.observed, predicted_before, predicted_after,
        tuple(dict.fromkeys(problem.observed.fields)),
    )  # fmt: skip
    fit.warnings = _warnings(wanted, best, deviation, correlation, condition)
    return fit


def _warnings(wanted: Sequence[Parameter], best: Solution, deviation: np.ndarray, correlation: np.ndarray, condition: float) -> list[str]:
    """Return what the trajectories do not tell, one line each."""
    out = []
    for k, one in enumerate(wanted):
        z, relative = float(best.shared[k]), float(deviation[k])
        value = abs(one.value(z))
        share = relative if one.log else one.deviation(z, relative) / max(value, 1e-12)
        if best.information[k, k] < 1e-6 or (share > 0.25 and not (one.selection is None and one.deviation(z, relative) < 0.002)):
            told = f"its standard error is {share:.0%} of its value; excite it more, or leave it out"
            out.append(f"{one.key} is not identifiable from these trajectories: {told}")
        elif z <= one.low or z >= one.high:
            found = f"{one.value(z):g} {one.unit}"
            out.append(f"{one.key} lies at the edge of what was searched ({found}); another model field may be wrong, or the range too small")
    for i in range(len(wanted)):
        for j in range(i):
            if abs(correlation[i, j]) > 0.98:
                a, b = wanted[j].key, wanted[i].key
                out.append(f"{a} and {b} cannot be told apart (correlation {correlation[i, j]:+.3f}): fit one of them, or move so that they act differently")
    if condition > 1e6 and not out:
        out.append(f"the parameters together are badly determined (condition number {condition:.1e})")
    if not best.converged:
        out.append("the search had not settled when its steps were used up; allow more with --iterations")
    return out


def require_task(env: object) -> MujocoTask:
    """Return ``env`` if its worlds can be set to any state. Raises InputError otherwise."""
    if not isinstance(env, MujocoTask):
        raise InputError(f"task {getattr(env, 'task', '?')!r} cannot be identified: its worlds are not those of sim.task")
    return env
