"""Learning curves: what training by trial reached after how many environment steps and how many seconds, over seeds.

Runs whose recipes differ in nothing but the seed (and where they were written) are one learner: a mean with its 95 % interval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError
from robopolicy.evaluation.statistics import mean_interval
from robopolicy.reporting.plots import Axis, Line, line_chart, smoothed

#: What is drawn where a log has it, besides every name that begins with ``tracking``.
TITLES = {
    "return": "Return of an episode",
    "success": "Success",
    "tracking_error": "Tracking error",
    "intervention_rate": "Share of steps taken over",
}
SHARES = ("success", "intervention_rate")
#: Keys of a recipe in which runs of one learner may differ.
_NOT_THE_LEARNER = ("seed", "output", "training.threads")
_GRID = 120  # points of a mean over seeds


@dataclass(frozen=True)
class Trial:
    """What the log of one run of learning by trial holds.

    Attributes:
        folder: Of the run.
        recipe: Its recipe, flat: ``training.worlds`` -> 64.
        steps: (n,) environment steps of all worlds together.
        seconds: (n,) wall-clock seconds of training, all calls together.
        series: name -> (n,) mean over the episodes that ended since the row before, NaN where none did.
        checks: (m, 4) environment steps, success, low and high of each evaluation during training, on selection seeds.
    """

    folder: Path
    recipe: Mapping[str, Any]
    steps: np.ndarray
    seconds: np.ndarray
    series: Mapping[str, np.ndarray]
    checks: np.ndarray

    @property
    def learner(self) -> str:
        """What is the same in runs that differ in their seed alone."""
        return json.dumps({k: v for k, v in sorted(self.recipe.items()) if k not in _NOT_THE_LEARNER}, sort_keys=True, default=str)


@dataclass(frozen=True)
class Learner:
    """Runs of one learner, one a seed.

    Attributes:
        label: Name for legends.
        task: What it learns.
        trials: Its runs.
    """

    label: str
    task: str
    trials: Sequence[Trial]


def is_trial(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe (as read from its file) is one of learning by trial."""
    return isinstance(recipe.get("algo"), Mapping)


def read_trial(file: Path, recipe: Mapping[str, Any]) -> Trial | None:
    """Read the log of a run of learning by trial; None when it holds no training row.

    Args:
        file: The ``log.jsonl``.
        recipe: The run's recipe, flat.

    Raises:
        InputError: naming file and line, if a whole line is not one of a log.
    """
    rows: list[dict[str, Any]] = []
    checks: list[tuple[float, float, float, float]] = []
    try:
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]  # after the last end of line: nothing, or what is just being written
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            at = float(row.get("env_steps", row["step"]))
            if row["event"] in ("train", "resume"):
                rows.append({**row, "env_steps": at, "time": float(row.get("time", math.nan))})
            elif row["event"] == "evaluation":
                checks.append((at, real(row["success"]), real(row.get("low")), real(row.get("high"))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file} line {number}: not a line of a training log: {type(error).__name__}: {error}") from error
    trained = np.array([row["event"] == "train" for row in rows], bool)
    if not trained.any():
        return None
    seconds = accumulated(rows, "wall_s")[trained]
    rows = [row for row in rows if row["event"] == "train"]
    names = [n for n in dict.fromkeys(name for row in rows for name in row) if n in TITLES or n.startswith("tracking")]
    series = {name: np.array([real(row.get(name)) for row in rows]) for name in names}
    known = {name: values for name, values in series.items() if np.isfinite(values).any()}
    return Trial(file.parent, recipe, np.array([row["env_steps"] for row in rows]), seconds, known, np.array(checks).reshape(-1, 4))


def real(value: Any) -> float:
    """Return a number of a log; null is NaN."""
    return math.nan if value is None else float(value)


def accumulated(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Return the seconds (n,) ``name`` (``wall_s`` or ``cpu_s``) at each row: those of its call, after those of the calls before.

    Every call of training begins at 0, all but the first with a row ``resume``; without that row a call is known by seconds that fall. A
    log without seconds has what its clock says, pauses and all.
    """
    out, before, last = [], 0.0, 0.0
    first = next((row["time"] for row in rows if row["event"] == "train"), math.nan)
    for row in rows:
        if row["event"] == "resume":
            before, last = before + last, 0.0
        own = real(row.get(name))
        if math.isnan(own):
            out.append(row["time"] - first)
            continue
        if own < last:
            before += last
        last = own
        out.append(before + own)
    return np.array(out)


def learners(trials: Sequence[Trial]) -> list[Learner]:
    """Return the learners of all runs, by task; those of one rule are told apart by the keys in which their recipes differ."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.learner, []).append(trial)
    out = []
    for group in groups.values():
        first = group[0].recipe
        twins = [g[0].recipe for g in groups.values() if all(g[0].recipe.get(k) == first.get(k) for k in ("task", "algo.type"))]
        keys = [k for k in dict.fromkeys(k for t in twins for k in t) if k not in _NOT_THE_LEARNER and len({str(t.get(k)) for t in twins}) > 1]
        said = " ".join(f"{k.rpartition('.')[2]}={first.get(k)}" for k in keys[:3]) + (" ..." if len(keys) > 3 else "")
        out.append(Learner(f"{first.get('algo.type', 'trial')} {said}".strip(), str(first.get("task", "")), group))
    names = [(x.task, x.label) for x in out]
    apart = [Learner(f"{x.label} ({x.trials[0].folder.name})" if names.count((x.task, x.label)) > 1 else x.label, x.task, x.trials) for x in out]
    return sorted(apart, key=lambda learner: (learner.task, learner.label))


def mean_curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return positions, mean and 95 % interval (Student's, of the mean over runs; None for one run) of several curves.

    Args:
        curves: (x (n,) rising, y (n,)) of each run, not finite values left out; taken where all of them are known.
    """
    if len(curves) == 1:
        return (*curves[0], None, None)
    begin, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.linspace(begin, max(begin, end), _GRID)
    values = np.stack([np.interp(grid, x, y) for x, y in curves])
    mean, half = mean_interval(values)
    return grid, mean, mean - half, mean + half


def _finite(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def _lines(group: Sequence[Learner], name: str, clock: bool, colours: Mapping[str, int]) -> list[Line]:
    """Return the curves of one quantity: one run pale and smoothed, several as their mean in a band; that of a share ends at 0 and 1."""
    out = []
    for learner in group:
        drawn = [(_finite(t.seconds if clock else t.steps, t.series[name])) for t in learner.trials if name in t.series]
        drawn = [(x, y) for x, y in drawn if len(x)]
        if not drawn:
            continue
        colour = colours[learner.label]
        if len(drawn) == 1:
            out.append(Line(f"{learner.label}, every logged row", *drawn[0], colour, faint=True))
        x, y, low, high = mean_curve([(x, smoothed(y)) for x, y in drawn])
        if name in SHARES and low is not None and high is not None:
            low, high = low.clip(0, 1), high.clip(0, 1)
        seeds = f", mean of {len(drawn)} seeds" if len(drawn) > 1 else ""
        out.append(Line(learner.label + seeds, x, y, colour, low, high))
    return out


def charts(task: str, group: Sequence[Learner], colours: Mapping[str, int]) -> list[tuple[str, str, str]]:
    """Return (title, what is seen, SVG) of every chart of one task's learners; colours by label."""
    out = []
    known = {n for x in group for t in x.trials for n in t.series}
    names = [n for n in (*TITLES, *sorted(known - set(TITLES))) if n in known]
    for name in names:
        title = TITLES.get(name, name.replace("_", " ").capitalize())
        up = Axis(title.lower(), 0, 1, percent=True) if name in SHARES else Axis(title.lower())
        say = "Mean over the episodes that ended between two rows of the log, smoothed; while exploring, so not what an evaluation measures."
        for clock, along in ((False, "environment steps"), (True, "seconds of training")):
            lines = _lines(group, name, clock, colours)
            if lines:
                out.append((f"{title} against {along}", say, line_chart(lines, Axis(along, 0), up, f"{task}: {title.lower()} against {along}")))
    checked = [(x, t) for x in group for t in x.trials if len(t.checks)]
    if checked:
        drawn = [
            Line(f"{x.label} seed {t.recipe.get('seed')}", t.checks[:, 0], t.checks[:, 1], colours[x.label], t.checks[:, 2], t.checks[:, 3]) for x, t in checked
        ]
        chart = line_chart(drawn, Axis("environment steps", 0), Axis("success rate", 0, 1, percent=True), f"{task}: success during training")
        out.append(("Success during training", "On selection seeds, with its 95% interval: for watching, not for reporting.", chart))
    return out
