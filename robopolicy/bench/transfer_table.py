"""What the transfer benchmark says: success and score in every world, the gap that is left, and who closes how much of it.

All of it is paired: everybody meets the same initial states. Several training seeds are pooled for success (Tango's interval of the
pooled pairs) and averaged state by state for scores (bootstrap over states), so the intervals are about these trainings, not about
further ones; each seed's own figure stands beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from robopolicy.bench.transfer_beds import MUJOCO, NOMINAL, ROBOT, VARIANTS, WORLDS, Bed
from robopolicy.evaluation.statistics import Paired, compare, holm, over_states, paired_difference

RESAMPLES = 9999
#: variant -> training seed -> world -> what ``try_policy`` returned for it
Tried = Mapping[str, Mapping[int, Mapping[str, Mapping[str, Any]]]]


@dataclass(frozen=True)
class Measure:
    """One figure with its 95 % interval, and those of the training seeds."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Closing:
    """A variant against the nominal one on the robot.

    Attributes:
        gain: Variant minus nominal.
        p_value: Of the paired test, adjusted for the other variants (Holm).
        share: Of the nominal gap between MuJoCo and the robot that the gain is; None where that gap is no more than chance.
    """

    gain: Measure
    p_value: float
    share: float | None


@dataclass(frozen=True)
class Table:
    """One bed.

    Attributes:
        quantity: ``success``, or the bed's score.
        reached: Variant (and the expert) -> world -> figure.
        gaps: Variant -> the robot minus MuJoCo.
        closings: Variant but the nominal one -> what it changes on the robot.
    """

    quantity: str
    reached: dict[str, dict[str, Measure]]
    gaps: dict[str, Measure]
    closings: dict[str, Closing]

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return asdict(self)


def paired_bootstrap(differences: np.ndarray, resamples: int = RESAMPLES, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of ``differences`` (n,), one a state, and its percentile interval over resampled states.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife". The same draws every time.
    """
    values, low = np.asarray(differences, np.float64), (1 - confidence) / 2
    picked = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    means = values[picked].mean(axis=1)
    return float(values.mean()), float(np.quantile(means, low)), float(np.quantile(means, 1 - low))


def sign_flip(differences: np.ndarray, flips: int = RESAMPLES) -> float:
    """Return the two-sided p-value of the paired randomisation test: signs of ``differences`` (n,) are exchangeable if nothing differs.

    Source: Fisher 1935, "The design of experiments". The observed signs count as one of the draws, so the test is exact for any number of them.
    """
    values = np.asarray(differences, np.float64)
    signs = np.random.default_rng(1).integers(0, 2, (flips, len(values))) * 2 - 1
    observed, drawn = abs(values.sum()), np.abs(signs @ values)
    return float((1 + np.count_nonzero(drawn >= observed - 1e-12 * np.abs(values).sum())) / (flips + 1))


def tables(bed: Bed, tried: Tried, expert: Mapping[str, Mapping[str, Any]] | None) -> list[Table]:
    """Return the table of success, and of the bed's score if it has one; ``tried`` holds what was measured, perhaps not all yet."""
    quantities = ["success", *([bed.score] if bed.score else [])]
    return [_table(name, "success" if name == "success" else "score", tried, expert) for name in quantities]


def _table(quantity: str, key: str, tried: Tried, expert: Mapping[str, Mapping[str, Any]] | None) -> Table:
    found = {variant: {world: _values(seeds, world, key) for world in WORLDS} for variant, seeds in tried.items()}
    if expert is not None:
        found["expert"] = {world: np.asarray([expert[world][key]], np.float64) if world in expert else np.zeros((0, 0)) for world in WORLDS}
    shares = quantity == "success"
    reached = {who: {world: _reached(v, shares) for world, v in worlds.items() if v.size} for who, worlds in found.items()}
    gaps = {v: _difference(found[v][ROBOT], found[v][MUJOCO], shares)[0] for v in VARIANTS if _both(tried, (v, ROBOT), (v, MUJOCO))}
    wanted = [v for v in VARIANTS[1:] if _both(tried, (v, ROBOT), (NOMINAL, ROBOT))]
    changed = [_difference(found[v][ROBOT], found[NOMINAL][ROBOT], shares) for v in wanted]
    adjusted = holm([p for _, p in changed])
    lost = gaps.get(NOMINAL)
    real = lost is not None and lost.high < 0
    closings = {
        v: Closing(gain, p, gain.value / -lost.value if lost is not None and real else None) for v, (gain, _), p in zip(wanted, changed, adjusted, strict=True)
    }
    return Table(quantity, reached, gaps, closings)


def _values(seeds: Mapping[int, Mapping[str, Mapping[str, Any]]], world: str, key: str) -> np.ndarray:
    """Return (S, n) of the training seeds that were tried in ``world``."""
    rows = [worlds[world][key] for _, worlds in sorted(seeds.items()) if world in worlds]
    return np.asarray(rows, np.float64) if rows else np.zeros((0, 0))


def _both(tried: Tried, one: tuple[str, str], two: tuple[str, str]) -> bool:
    """Whether both were measured, with the same training seeds and as many states."""
    a, b = ({seed: len(worlds[world]["success"]) for seed, worlds in tried.get(who, {}).items() if world in worlds} for who, world in (one, two))
    return bool(a) and a == b


def _reached(values: np.ndarray, shares: bool) -> Measure:
    """Return the figure of ``values`` (S, n)."""
    each = tuple(values.mean(axis=1).tolist())
    if shares:
        return Measure(*over_states(values), each)
    return Measure(*paired_bootstrap(values.mean(axis=0)), each)


def _difference(one: np.ndarray, two: np.ndarray, shares: bool) -> tuple[Measure, float]:
    """Return ``one`` minus ``two``, (S, n) each, and the p-value of the paired test."""
    each = tuple((one - two).mean(axis=1).tolist())
    differences = (one - two).mean(axis=0)
    if not shares:
        return Measure(*paired_bootstrap(differences), each), sign_flip(differences)
    pair = compare((one.ravel() > 0).tolist(), (two.ravel() > 0).tolist())
    if len(one) == 1:
        return Measure(pair.difference, pair.low, pair.high, each), pair.p_value
    return Measure(*_tango_over_states(one - two, pair), each), sign_flip(differences)


def _tango_over_states(differences: np.ndarray, pair: Paired) -> tuple[float, float, float]:
    """Return the mean of ``differences`` (S, n) of -1, 0 and 1 with Tango's interval, for as many pairs as states tell that training seeds share.

    That is S n over the design effect (Kish 1965), between n and S n; as in :func:`robopolicy.evaluation.statistics.over_states`.
    """
    seeds, n = differences.shape
    alone = float(differences.var()) / differences.size
    shared = float(differences.mean(axis=0).var(ddof=1)) / n if n > 1 else 0.0
    effective = differences.size * alone / shared if shared > 0 else differences.size if alone > 0 else n
    pairs = round(min(max(effective, n), seeds * n))
    only = [int(count * pairs / pair.n) for count in (pair.first_only, pair.second_only)]
    value, low, high = paired_difference(pairs, *only)
    moved = pair.difference - value  # whole pairs are a little less than their share
    return pair.difference, max(-1.0, low + moved), min(1.0, high + moved)


def markdown(bed: Bed, table: Table) -> str:
    """Return the table for people: a line a variant, a column a world, then the gap and what is closed of it."""
    percent = table.quantity == "success"
    title = f"**{bed.task}**, {table.quantity}"
    lines = [
        title,
        "",
        f"| policy | {' | '.join(WORLDS)} | gap: robot - MuJoCo | on the robot, against nominal | p | of the gap |",
        "|---|" + "---|" * (len(WORLDS) + 4),
    ]
    for who, worlds in table.reached.items():
        cells = [said(worlds[world], percent) if world in worlds else "" for world in WORLDS]
        closing = table.closings.get(who)
        cells.append(said(table.gaps[who], percent, signed=True) if who in table.gaps else "")
        cells += ["", "", ""] if closing is None else [said(closing.gain, percent, signed=True), f"{closing.p_value:.2g}", _share(closing.share)]
        lines.append(f"| {who} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def said(measure: Measure, percent: bool, signed: bool = False) -> str:
    """Return ``82% [76, 87] (80, 84)``: the figure, its interval, each training seed where there are several."""
    factor, form = (100.0, ".0f") if percent else (1.0, ".2f")
    sign = "+" if signed else ""
    value, low, high = (f"{factor * number:{sign}{form}}" for number in (measure.value, measure.low, measure.high))
    each = f" ({', '.join(f'{factor * one:{sign}{form}}' for one in measure.seeds)})" if len(measure.seeds) > 1 else ""
    return f"{value}{'%' if percent else ''} [{low}, {high}]{each}"


def _share(share: float | None) -> str:
    return "no gap beyond chance" if share is None else f"{share:.0%}"


def identified(estimates: Sequence[Mapping[str, Any]], true: Mapping[str, float]) -> str:
    """Return a table of what was identified beside what was true."""
    lines = ["| parameter | unit | begun at | identified | true |", "|---|---|---|---|---|"]
    for one in estimates:
        unit = "factor" if one["unit"] == "x" else one["unit"]
        lines.append(f"| `{one['key']}` | {unit} | {one['start']:.3g} | {one['value']:.3g} ± {one['standard_error']:.1g} | {true[one['key']]:.3g} |")
    return "\n".join(lines) + "\n"
