"""Several tasks as one suite: which evaluations are runs of one method, for aggregates, profiles and per-task figures.

Only report rows count. A method is a policy type with its way of execution and weights, and the number of demonstrations where
that differs; its training seeds are its runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robopolicy.evaluation import aggregate
from robopolicy.evaluation.bootstrap import Estimate
from robopolicy.evaluation.records import Evaluation

THRESHOLDS = np.linspace(0, 1, 51)


@dataclass(frozen=True)
class Method:
    """One method on several tasks.

    Attributes:
        name: For tables.
        tasks: task -> the evaluations of its runs.
    """

    name: str
    tasks: dict[str, list[Evaluation]]

    @property
    def runs(self) -> aggregate.Runs:
        """Outcomes (episodes,) of every run of every task."""
        return {task: [np.array([x.success for x in e.episodes], np.float64) for e in runs] for task, runs in self.tasks.items()}

    def rate(self, task: str) -> tuple[int, int]:
        """Return successes and episodes on a task, all runs together."""
        return sum(e.successes for e in self.tasks[task]), sum(len(e.episodes) for e in self.tasks[task])


def methods(evaluations: Sequence[Evaluation]) -> list[Method]:
    """Return the methods by name, the expert last; tasks in the order of the evaluations."""
    reports = [e for e in evaluations if e.purpose == "report"]
    counts: dict[str, set[object]] = {}
    for e in reports:
        counts.setdefault(_type(e), set()).add(e.training.get("episodes"))
    out: dict[str, Method] = {}
    for e in reports:
        several, demonstrations = len(counts[_type(e)]) > 1, e.training.get("episodes")
        name = f"{_type(e)}, {demonstrations} demonstrations" if several and demonstrations else _type(e)
        out.setdefault(name, Method(name, {})).tasks.setdefault(e.task, []).append(e)
    return sorted(out.values(), key=lambda method: (method.name == "expert", method.name))


def _type(e: Evaluation) -> str:
    parts = (e.policy, "" if e.execution is None else f"({e.execution})", e.weights or "")
    disturbed = "disturbed" if e.env.get("perturb") else ""
    return " ".join(part for part in (*parts, disturbed) if part)


def complete(found: Sequence[Method]) -> list[Method]:
    """Return the methods that were run on every task that any was: aggregates of others would be of other suites."""
    tasks = {task for method in found for task in method.tasks}
    return [method for method in found if set(method.tasks) == tasks]


def aggregates(found: Sequence[Method]) -> dict[str, dict[str, Estimate]]:
    """Return method -> figure -> estimate."""
    return {method.name: aggregate.aggregates(method.runs) for method in found}


def improvements(found: Sequence[Method]) -> dict[tuple[str, str], Estimate]:
    """Return (first, second) -> probability that a run of the first is better, for every two methods in order."""
    pairs = [(a, b) for i, a in enumerate(found) for b in found[i + 1 :]]
    return {(a.name, b.name): aggregate.improvement(a.runs, b.runs) for a, b in pairs}


def profiles(found: Sequence[Method]) -> dict[str, aggregate.Profile]:
    """Return method -> its performance profile over :data:`THRESHOLDS`."""
    return {method.name: aggregate.profile(method.runs, THRESHOLDS) for method in found}
