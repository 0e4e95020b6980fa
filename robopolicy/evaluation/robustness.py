"""Success against the size of what is wrong: the same checkpoints over ladders of perturbations, on the same initial states.

Every cell (policy, kind, size) is an evaluation with its line in the ledger, and is not run again where the ledger has it: a stopped
table goes on. Size 0 (or factor 1) is one plain evaluation that all kinds share and that every other cell is paired with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policies.spec import InputError, suggest
from robopolicy.evaluation.bootstrap import Estimate, generator
from robopolicy.evaluation.earlier import of_entrant
from robopolicy.evaluation.perturb import KINDS, Kind, Perturbation, read, with_scale
from robopolicy.evaluation.records import Evaluation
from robopolicy.evaluation.rollout import evaluate, make_world
from robopolicy.evaluation.statistics import Paired, compare, holm, wilson
from robopolicy.evaluation.subject import EXPERT
from robopolicy.evaluation.versus import Contest, Entrant, labels

RESAMPLES = 2000
SET = "robustness"  # of these evaluations in the ledger


@dataclass(frozen=True)
class Ladder:
    """One kind at several sizes.

    Attributes:
        kind: Of :data:`robopolicy.evaluation.perturb.KINDS`.
        sizes: Rising, the neutral one among them.
        element: What it acts on; empty: everything.
    """

    kind: str
    sizes: tuple[float, ...]
    element: str = ""

    @property
    def about(self) -> Kind:
        """The kind."""
        return KINDS[self.kind]

    def at(self, size: float) -> Perturbation:
        """Return the perturbation of one size."""
        return read([{"kind": self.kind, "size": size, **({"element": self.element} if self.element else {})}], f"--sizes {self.kind}")[0]


def ladders(kinds: Sequence[str], sizes: Mapping[str, Sequence[float]], elements: Mapping[str, str] | None = None) -> list[Ladder]:
    """Return the ladders of ``kinds`` (empty: all), with their own sizes where ``sizes`` has none.

    Raises:
        InputError: for an unknown kind or a size that it cannot have.
    """
    elements = elements or {}
    for name in (*kinds, *sizes, *elements):
        if name not in KINDS:
            raise InputError(f"perturbation {name!r} does not exist{suggest(name, KINDS)}")
    wanted = list(dict.fromkeys(kinds)) or list(KINDS)
    for name in (*sizes, *elements):
        if name not in wanted:
            raise InputError(f"{name}: sizes or an element are given, but it is not among the kinds {', '.join(wanted)}")
    out = [Ladder(name, tuple(sorted({*sizes.get(name, KINDS[name].ladder), KINDS[name].neutral})), elements.get(name, "")) for name in wanted]
    for ladder in out:
        for size in ladder.sizes:
            ladder.at(size)
    return out


@dataclass(frozen=True)
class Curve:
    """Success of one policy over the sizes of one kind.

    Attributes:
        policy: Label.
        ladder: Kind and sizes.
        outcomes: (S, n) bool, by size and initial state; equal columns are equal states.
    """

    policy: str
    ladder: Ladder
    outcomes: np.ndarray

    @property
    def neutral(self) -> int:
        """Index of the size that changes nothing."""
        return self.ladder.sizes.index(self.ladder.about.neutral)

    @property
    def rates(self) -> np.ndarray:
        """Success (S,) of every size."""
        return self.outcomes.mean(axis=1)

    def interval(self, index: int) -> tuple[float, float]:
        """Return the Wilson interval, 95 %, of one size."""
        return wilson(int(self.outcomes[index].sum()), self.outcomes.shape[1])

    def paired(self, index: int) -> Paired:
        """Return one size against the neutral one, on the same states; the difference is what the perturbation adds."""
        return compare(self.outcomes[index].tolist(), self.outcomes[self.neutral].tolist())

    def sides(self) -> list[tuple[str, np.ndarray]]:
        """Return (name, indices (K,) from the neutral size outwards) of the ways up and, for factors, down."""
        up, down = np.arange(self.neutral, len(self.ladder.sizes)), np.arange(self.neutral, -1, -1)
        names = ("more", "less") if len(up) > 1 and len(down) > 1 else ("", "")
        return [(name, way) for name, way in zip(names, (up, down), strict=True) if len(way) > 1]

    def positions(self, way: np.ndarray) -> np.ndarray:
        """Return where the sizes ``way`` (K,) lie: sizes themselves, logarithms of factors above 0; (K,)."""
        sizes = np.array(self.ladder.sizes)[way]
        return np.log(sizes) if self.ladder.about.factor and (sizes > 0).all() else sizes

    def half_size(self, way: np.ndarray) -> Estimate:
        """Return the size at which success falls below half of its unperturbed value, along ``way`` (K,), with its bootstrap interval.

        Between two sizes it is interpolated, for factors in the logarithm. Infinite where success never falls so low, NaN where
        there is none to lose. The bootstrap draws initial states, the same ones at all sizes.
        """
        where, logarithmic = self.positions(way), not np.array_equal(self.positions(way), np.array(self.ladder.sizes)[way])
        found = crossing(where, np.concatenate([self.rates[way][None], self._resampled(way)]))
        if logarithmic:
            found = np.where(np.isfinite(found), np.exp(np.where(np.isfinite(found), found, 0.0)), found)
        return _estimate(found, falling=where[-1] < where[0])

    def area(self, way: np.ndarray) -> Estimate:
        """Return the mean success over the ladder along ``way`` (K,): the area under the curve over its width, with a bootstrap interval."""
        where = self.positions(way)
        rates = np.concatenate([self.rates[way][None], self._resampled(way)])
        widths = np.abs(np.diff(where))
        return _estimate(((rates[:, 1:] + rates[:, :-1]) / 2 * widths).sum(axis=1) / widths.sum())

    def _resampled(self, way: np.ndarray) -> np.ndarray:
        """Return rates (resamples, K) of sizes ``way`` (K,) over states drawn with replacement."""
        n = self.outcomes.shape[1]
        weights = generator(0).multinomial(n, np.full(n, 1.0 / n), RESAMPLES)
        return weights @ self.outcomes[way].T.astype(np.float64) / n


def crossing(where: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Return where (R,) each row of ``rates`` (R, K) at positions ``where`` (K,) first falls below half of its first value.

    Linear in between; infinite for a row that never does, NaN for one that begins at 0.
    """
    half = rates[:, 0] / 2
    below = rates < half[:, None]
    first = np.maximum(below.argmax(axis=1), 1)
    rows = np.arange(len(rates))
    before, after = rates[rows, first - 1], rates[rows, first]
    share = (before - half) / np.maximum(before - after, 1e-300)
    found = where[first - 1] + share * (where[first] - where[first - 1])
    return np.where(half == 0, np.nan, np.where(below.any(axis=1), found, np.inf))


def _estimate(values: np.ndarray, falling: bool = False) -> Estimate:
    """Return the first of ``values`` (1 + R,) with the percentiles of the others; ends are values that occurred, infinite ones among them."""
    drawn = values[1:][~np.isnan(values[1:])]
    if not drawn.size or math.isnan(values[0]):
        return Estimate(math.nan, math.nan, math.nan)
    if falling:  # along a way down, never is below everything
        values, drawn = np.where(np.isinf(values), 0.0, values), np.where(np.isinf(drawn), 0.0, drawn)
    low, high = np.percentile(drawn, 2.5, method="lower"), np.percentile(drawn, 97.5, method="higher")
    return Estimate(float(values[0]), float(low), float(high))


@dataclass
class Table:
    """What was measured.

    Attributes:
        task: Registered name.
        episodes: Initial states of a cell.
        seed0: Of the first.
        purpose: ``report`` or ``selection``.
        curves: Of every policy and kind.
        left_out: One line for each kind that a policy's worlds cannot have.
    """

    task: str
    episodes: int
    seed0: int
    purpose: str
    curves: list[Curve] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def adjusted(self) -> dict[tuple[str, str, float], float]:
        """Return (policy, kind, size) -> McNemar's p-value against the neutral size, adjusted for all cells of the table (Holm 1979)."""
        cells = [(c.policy, c.ladder.kind, size, c.paired(i).p_value) for c in self.curves for i, size in enumerate(c.ladder.sizes) if i != c.neutral]
        return {(policy, kind, size): p for (policy, kind, size, _), p in zip(cells, holm([c[3] for c in cells]), strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready: infinite sizes and what is not defined are null."""
        adjusted = self.adjusted()
        curves = [_curve_json(c, adjusted) for c in self.curves]
        about = {"task": self.task, "episodes": self.episodes, "seed0": self.seed0, "purpose": self.purpose}
        return {**about, "curves": curves, "left_out": self.left_out}


def _curve_json(c: Curve, adjusted: Mapping[tuple[str, str, float], float]) -> dict[str, Any]:
    cells: list[dict[str, Any]] = []
    for i, size in enumerate(c.ladder.sizes):
        cells.append({"size": size, "successes": int(c.outcomes[i].sum()), "wilson95": list(c.interval(i))})
        if i != c.neutral:
            pair, p = c.paired(i), adjusted[c.policy, c.ladder.kind, size]
            cells[-1] |= {"difference": pair.difference, "difference95": [pair.low, pair.high], "p": pair.p_value, "p_holm": p}
    summary = [{"side": name or None, "half_size": _json(c.half_size(way)), "area": _json(c.area(way))} for name, way in c.sides()]
    about = {"policy": c.policy, "kind": c.ladder.kind, "unit": c.ladder.about.unit, "element": c.ladder.element}
    return {**about, "cells": cells, "summary": summary}


def _json(e: Estimate) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in (("value", e.value), ("low", e.low), ("high", e.high))}


def sweep(contest: Contest, wanted: Sequence[Ladder], explicit: bool, device: str = "cpu", told: Callable[[int, int, str], None] | None = None) -> Table:
    """Evaluate every policy of a contest over the ladders and return the table; cells that the ledger of ``contest.out`` has are read.

    Args:
        contest: Policies, task, seeds, settings; see :func:`robopolicy.evaluation.versus.prepare`.
        wanted: Kinds and sizes.
        explicit: Whether somebody asked for these kinds: one that no policy's worlds can have is then refused, not left out.
        device: Where policies run.
        told: Called with cells done, cells in all and the next cell's name.

    Raises:
        InputError: as said, or as :func:`robopolicy.evaluation.rollout.evaluate`.
    """
    config, names = contest.config, labels(contest.entrants)
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"robustness: {name} is given twice: its cells would count twice in Holm's correction; name every policy once")
    table = Table(contest.task, config.episodes, int(contest.purpose) + config.seed, contest.purpose.name.lower())
    plan = [(entrant, label, ladder) for entrant, label in zip(contest.entrants, names, strict=True) for ladder in wanted]
    checkpoints = [e.name for e in contest.entrants if isinstance(e.name, str) and e.name != EXPERT]
    runs: list[tuple[Entrant, str, Ladder, list[Perturbation]]] = []
    for entrant, label, ladder in plan:
        try:
            runs.append((entrant, label, ladder, _possible(contest.task, entrant, ladder, checkpoints)))
        except InputError as error:
            table.left_out.append(f"{label}: {error}")
            if explicit and not any(other.kind == ladder.kind for _, _, other, _ in runs) and entrant is contest.entrants[-1]:
                raise
    total, done = sum(len(ladder.sizes) for _, _, ladder, _ in runs), 0
    plain: dict[str, Evaluation] = {}
    for entrant, label, ladder, perturbations in runs:
        found = []
        for p in perturbations:
            if told is not None:
                told(done, total, f"{label}, {p}")
            if p.neutral and label in plain:
                found.append(plain[label])
            else:
                found.append(_cell(contest, entrant, label, p, device))
                plain.update({label: found[-1]} if p.neutral else {})
            done += 1
        table.curves.append(Curve(label, ladder, np.array([[e.success for e in one.episodes] for one in found])))
    if told is not None:
        told(total, total, "")
    return table


def _possible(task: str, entrant: Entrant, ladder: Ladder, checkpoints: Sequence[str]) -> list[Perturbation]:
    """Return the perturbations of a ladder. Raises InputError if the worlds of this policy cannot have them."""
    if entrant.name == EXPERT and ladder.about.side == "sensors":
        raise InputError(f"perturbation {ladder.kind}: the scripted expert reads the true state")
    out = list(with_scale([ladder.at(size) for size in ladder.sizes], checkpoints))
    make_world(task, {**entrant.env, "perturb": [out[-1 if ladder.sizes[-1] != ladder.about.neutral else 0].to_dict()]}, 1).close()
    return out


def _cell(contest: Contest, entrant: Entrant, label: str, p: Perturbation, device: str) -> Evaluation:
    """Return the evaluation of one cell: that of the ledger, or a new one."""
    config = contest.config
    env = {**entrant.env, **({} if p.neutral else {"perturb": [p.to_dict()]})}
    known = of_entrant(contest, entrant, env, device)
    if known is not None:
        return known
    return evaluate(
        entrant.name,
        contest.task,
        episodes=config.episodes,
        seed0=int(contest.purpose) + config.seed,
        block=config.block,
        workers=config.workers,
        threads=config.threads,
        env=env,
        noise_seed=config.seed,
        device=device,
        latency_calls=0,
        out=contest.out,
        label=label,
        progress=False,
        cluster=contest.cluster,
        set_name=SET,
        method=entrant.method,
        weights=entrant.weights,
    )
