"""Several tasks as one suite: which evaluations are runs of one method, for aggregates, profiles and per-task figures.

Only report rows count. A method is a policy type with its way of execution and weights in one kind of world (perturbed, randomised and
other engines are others), and the number of demonstrations and the time limit where these differ. Where a task has several recipes of
a type, or one is told its task in several ways, each is a method, by its label. Its training runs are its runs: the checkpoints of one
run, and evaluations of one that were repeated with other noise, are averaged and count as one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robopolicy.evaluation import aggregate
from robopolicy.evaluation.bootstrap import Estimate
from robopolicy.evaluation.records import Evaluation
from robopolicy.evaluation.statistics import over_states

THRESHOLDS = np.linspace(0, 1, 51)


@dataclass(frozen=True)
class Method:
    """One method on several tasks.

    Attributes:
        name: For tables.
        tasks: task -> its runs, each the evaluations of its checkpoints.
    """

    name: str
    tasks: dict[str, list[list[Evaluation]]]

    @property
    def runs(self) -> aggregate.Runs:
        """Outcomes (states,) of every run of every task, averaged over its checkpoints."""
        return {task: [np.array(list(_by_state(run).values())) for run in runs] for task, runs in self.tasks.items()}

    def counted(self, task: str) -> tuple[int, int]:
        """Return successes and episodes on a task, everything together; for an interval see :meth:`rate`."""
        every = [e for run in self.tasks[task] for e in run]
        return sum(e.successes for e in every), sum(len(e.episodes) for e in every)

    def rate(self, task: str) -> Estimate:
        """Return the success on a task over all states of all runs, with Wilson's interval for as much as states tell that runs share."""
        runs = [_by_state(run) for run in self.tasks[task]]
        states = sorted(set().union(*runs))
        return Estimate(*over_states(np.array([[run.get(state, np.nan) for state in states] for run in runs])))


def _by_state(run: Sequence[Evaluation]) -> dict[int, float]:
    """Return seed -> share of a run's evaluations of that state that succeeded, by seed."""
    found: dict[int, list[bool]] = {}
    for e in run:
        for x in e.episodes:
            found.setdefault(x.seed, []).append(x.success)
    return {seed: float(np.mean(found[seed])) for seed in sorted(found)}


def _run_of(e: Evaluation) -> tuple[object, ...]:
    """Return what tells the training run of an evaluation from others of its method."""
    own = tuple(e.training.get(key) for key in ("run", "seed", "recipe_hash"))
    return own if any(part is not None for part in own) else (e.checkpoint_hash, "" if e.policy == "expert" else e.label)


def methods(evaluations: Sequence[Evaluation]) -> list[Method]:
    """Return the methods by name, the expert last; tasks in the order of the evaluations."""
    reports = [e for e in evaluations if e.purpose == "report"]
    counts: dict[str, set[object]] = {}
    limits: dict[tuple[str, str], set[int]] = {}
    for e in reports:
        counts.setdefault(_type(e), set()).add(e.training.get("episodes"))
        limits.setdefault((_type(e), e.task), set()).add(e.max_episode_steps)
    names = []
    for e in reports:
        several, demonstrations = len(counts[_type(e)]) > 1, e.training.get("episodes")
        name = f"{_type(e)}, {demonstrations} demonstrations" if several and demonstrations else _type(e)
        names.append(name + (f", {e.max_episode_steps} steps" if len(limits[_type(e), e.task]) > 1 else ""))
    names = _apart(reports, names, [_labelled(name, e) for e, name in zip(reports, names, strict=True)])
    hashes = [hashlib.sha256(_recipe(e).encode()).hexdigest()[:4] for e in reports]
    names = _apart(reports, names, [f"{name} [recipe {own}]" for name, own in zip(names, hashes, strict=True)])
    out: dict[str, dict[str, dict[tuple[object, ...], list[Evaluation]]]] = {}
    for e, name in zip(reports, names, strict=True):
        out.setdefault(name, {}).setdefault(e.task, {}).setdefault(_run_of(e), []).append(e)
    found = [Method(name, {task: list(runs.values()) for task, runs in tasks.items()}) for name, tasks in out.items()]
    return sorted(found, key=lambda method: (method.name == "expert", method.name))


def _type(e: Evaluation) -> str:
    parts = (e.policy, "" if e.execution is None else f"({e.execution})", e.weights or "")
    return " ".join(part for part in (*parts, f"[{e.conditions}]" if e.conditions else "") if part)


def _apart(reports: Sequence[Evaluation], names: Sequence[str], longer: Sequence[str]) -> list[str]:
    """Return ``names``, the ``longer`` ones in place of those that stand for several recipes on a task."""
    recipes: dict[tuple[str, str], set[str]] = {}
    for e, name in zip(reports, names, strict=True):
        recipes.setdefault((name, e.task), set()).update([_recipe(e)] if _recipe(e) else [])
    mixed = {name for (name, _), found in recipes.items() if len(found) > 1}
    return [own if name in mixed and _recipe(e) else name for e, name, own in zip(reports, names, longer, strict=True)]


def _recipe(e: Evaluation) -> str:
    """Return what training seeds of one method share on a task: recipe, and how the task is told; empty where no recipe is known."""
    known = e.training.get("recipe_hash")
    return "" if known is None else json.dumps([known, e.env.get("condition")], sort_keys=True)


def _labelled(name: str, e: Evaluation) -> str:
    """Return a method's name, which begins with its policy's type, with the label of one of its evaluations."""
    label = (e.own_label or e.label).removesuffix(f" seed {e.training.get('seed')}")
    return label + name.removeprefix(e.policy) if label.startswith(e.policy) else f"{name}: {label}"


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
