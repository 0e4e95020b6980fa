"""On-policy rules: how far ratios go under PPO, SPO and MDPO, and settings that are scaled with the number of worlds or not.

Half-cheetah with episodes of 250 steps; a fixed learning rate, so that nothing but the rule holds the policy near the last one.
First 1M environment steps of every rule; then 4M with 16, 256 and 4096 worlds, settings chosen for 256 and either scaled
(``training.reference_worlds``) or left as they are. Three seeds; about two hours of two cores, and resumable: trainings that have
a line in ``runs/benchmarks/on_policy/results.jsonl`` are not run again. Leaves ``ratios.svg`` and ``scaling.svg`` there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from policies.spec import InputError
from robopolicy.bench.drawn import POINTS, draw, panel
from robopolicy.bench.harness import Result, Row
from robopolicy.evaluation import ledger

FOLDER = Path("runs/benchmarks/on_policy")
RECIPE = "rl/half-cheetah"
COMMON = (
    *("policy.hidden=[64,64]", "env.max_episode_steps=250", "training.schedule=constant", "training.lr=3e-4"),
    *("training.threads=1", "training.keep_checkpoints=1", "training.reference_worlds=null"),
)
RULES = ("ppo", "spo", "mdpo")
RULE_STEPS, RULE_SETTINGS = 1_000_000, ("training.worlds=64", "training.rollout=32", "training.epochs=10", "training.minibatches=8")
WORLDS, REFERENCE = (16, 256, 4096), 256
WORLD_STEPS, WORLD_SETTINGS = 4_000_000, ("training.rollout=32", "training.epochs=5", "training.minibatches=8")
NAIVE = "settings as they are"
QUICK = ("env.max_episode_steps=50",)
MEASURED: tuple[tuple[str, str, str, Literal["higher", "lower"]], ...] = (
    ("mean |ratio - 1| in the last epoch", "ratio_deviation", "", "lower"),
    ("the same, median over training", "ratio_deviation_median", "", "lower"),
    ("most |ratio - 1| in the last epoch", "ratio_deviation_max", "", "lower"),
    ("return", "return", "reward", "higher"),
)
LAST = 0.1  # share of the environment steps whose episodes make the final return


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        name: Of its run folder.
        overrides: Of the recipe.
        steps: Environment steps.
        row_steps: Environment steps of an iteration.
        seed: Of the training.
    """

    name: str
    overrides: tuple[str, ...]
    steps: int
    row_steps: int
    seed: int

    @property
    def key(self) -> str:
        """What identifies it among the results."""
        return json.dumps([self.name, self.overrides, self.steps, self.seed])

    def all_overrides(self, folder: Path) -> list[str]:
        """Return the overrides of the recipe, where it is written and how often it says something included."""
        iterations = self.steps // self.row_steps
        rhythm = (f"training.log_every={max(1, iterations // POINTS)}", f"training.checkpoint_every={max(100, iterations // 4)}")
        usual = RULE_STEPS if self.name in RULES else WORLD_STEPS
        run = f"{self.name}-{'' if self.steps == usual else f'{self.steps}-'}seed{self.seed}"  # of other lengths: other runs
        return [*COMMON, *self.overrides, *rhythm, f"training.steps={self.steps}", f"seed={self.seed}", f"output={folder / 'runs' / run}"]


def rule_cell(rule: str, seed: int, steps: int, more: tuple[str, ...] = ()) -> Cell:
    """Return the training of ``rule`` whose ratios are looked at, with ``more`` overrides."""
    return Cell(rule, (f"algo={rule}", *RULE_SETTINGS, *more), steps, 64 * 32, seed)


def world_cell(worlds: int, scaled: bool, seed: int, steps: int, more: tuple[str, ...] = ()) -> Cell:
    """Return PPO's training with ``worlds`` worlds and ``more`` overrides; at the reference, scaled and not are one."""
    told = (f"training.reference_worlds={REFERENCE}",) if scaled and worlds != REFERENCE else ()
    return Cell(f"worlds{worlds}{'-scaled' if told else ''}", (f"training.worlds={worlds}", *WORLD_SETTINGS, *told, *more), steps, worlds * 32, seed)


def run(quick: bool, steps: int | None = None, seeds: int = 3, only: str = "", folder: Path | None = None) -> Result:
    """Train what has no result yet and compare.

    Args:
        quick: One seed, a fiftieth of the steps, episodes of 50 steps and 512 worlds instead of 4096: under two minutes.
        steps: Environment steps of a rule's training; those with many worlds have four times as many. None: as above.
        seeds: Training seeds.
        only: ``ratios`` or ``scaling``; empty: both.
        folder: Where runs and results are kept; None: below ``runs/benchmarks``.
    """
    if only not in ("", "ratios", "scaling"):
        raise InputError(f"only={only!r}: expected 'ratios' or 'scaling'")
    folder = folder or (FOLDER.with_name("on_policy-quick") if quick else FOLDER)
    count, more = (1, QUICK) if quick else (seeds, ())
    few = steps or (20_480 if quick else RULE_STEPS)
    many = steps * 4 if steps else (65_536 if quick else WORLD_STEPS)
    result = Result()
    if only != "scaling":
        _ratios(folder, count, few, more, result)
    if only != "ratios":
        _scaling(folder, tuple(min(n, 512) for n in WORLDS) if quick else WORLDS, count, many, more, result)
    return result


def trained(cell: Cell, folder: Path) -> dict[str, Any]:
    """Return the row of ``cell``: the one in ``results.jsonl``, else of a training that is run (or gone on with) now."""
    from robopolicy.recipe import load_recipe
    from robopolicy.training.log import read_log
    from robopolicy.training.trial import train

    file = folder / "results.jsonl"
    found = [row for row in (ledger.read(file) if file.is_file() else ()) if row["key"] == cell.key]
    if found:
        return found[-1]
    run = train(load_recipe(RECIPE, cell.all_overrides(folder), note=lambda text: None)).run
    rows = list(read_log(run, "train"))
    curve = {name: [[row["env_steps"], row[name]] for row in rows if row.get(name) is not None] for name in ("return", "ratio_deviation")}
    row = {
        "key": cell.key,
        "name": cell.name,
        "seed": cell.seed,
        "steps": cell.steps,
        "curves": curve,
        "return": _final(curve["return"], cell),
        "ratio_deviation": float(np.mean([value for _, value in curve["ratio_deviation"]])),
        "ratio_deviation_max": max(row["ratio_deviation_max"] for row in rows),
        "kl": float(np.mean([row["kl"] for row in rows])),
        "wall_s": _spent(rows, "wall_s"),
        "cpu_s": _spent(rows, "cpu_s"),
    }
    ledger.append(file, row)
    shutil.rmtree(run / "state", ignore_errors=True)  # the run is finished; its checkpoint and log stay
    return row


def _spent(rows: Sequence[dict[str, Any]], name: str) -> float:
    """Return the seconds of all calls that made ``rows``; in each call they are counted from 0."""
    values = [row[name] for row in rows]
    return sum(last for last, following in zip(values, [*values[1:], 0.0], strict=True) if following < last)


def _final(curve: Sequence[Sequence[float]], cell: Cell) -> float:
    """Return the mean return of the episodes that ended in the last tenth of the steps, or of the last row that has one. Raises InputError."""
    if not curve:
        raise InputError(f"bench on_policy: no episode ended in {cell.steps} steps of {cell.name}: give more steps")
    last = [value for at, value in curve if at >= (1.0 - LAST) * cell.steps]
    return float(np.mean(last or [curve[-1][1]]))


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def _spread(rows: Sequence[dict[str, Any]], name: str) -> str:
    return f"{_mean(rows, name):.4g} ({', '.join(f'{row[name]:.4g}' for row in rows)})"


def _ratios(folder: Path, seeds: int, steps: int, more: tuple[str, ...], result: Result) -> None:
    """Add the rows of the three rules, PPO's as the peer of the others', and draw them."""
    by_rule: dict[str, list[dict[str, Any]]] = {rule: [] for rule in RULES}
    for seed in range(seeds):
        for rule in RULES:
            row = trained(rule_cell(rule, seed, steps, more), folder)
            median = float(np.median([value for _, value in row["curves"]["ratio_deviation"]]))  # a mean is one update's, where ratios run away
            by_rule[rule].append({**row, "ratio_deviation_median": median})
    for rule in RULES:
        rows, peer = by_rule[rule], None if rule == "ppo" else "PPO"
        for what, name, unit, better in MEASURED:
            row = Row(f"{rule.upper()}: {what}", _mean(rows, name), unit, peer, better=better, wall_s=_mean(rows, "wall_s"), cpu_s=_mean(rows, "cpu_s"))
            if peer is not None:
                row.peer_value = _mean(by_rule["ppo"], name)
                row.target = 1.0 if rule == "spo" and name == "ratio_deviation" else None
            result.rows.append(row)
        told = ", ".join(f"{name.replace('_', ' ')} {_spread(rows, name)}" for name in ("ratio_deviation_median", "return", "kl"))
        result.notes.append(f"{rule.upper()}, {steps:,} steps, mean (seeds): {told}")
    panels = [
        panel(by_rule, "ratio_deviation", "|ratio - 1|, last epoch", str.upper, log=True),
        panel(by_rule, "return", "return", str.upper),
    ]
    draw(folder / "ratios.svg", panels, [rule.upper() for rule in RULES])
    result.notes.append(f"drawn: {folder / 'ratios.svg'}")


def _scaling(folder: Path, worlds: Sequence[int], seeds: int, steps: int, more: tuple[str, ...], result: Result) -> None:
    """Add the rows of scaled and naive settings, at equal environment steps, and draw them."""
    groups: dict[tuple[int, bool], list[dict[str, Any]]] = {(n, scaled): [] for n in worlds for scaled in (True, False)}
    for seed in range(seeds):
        for (n, scaled), rows in groups.items():
            rows.append(trained(world_cell(n, scaled, seed, steps, more), folder))
    for n in worlds:
        ours, naive = groups[n, True], groups[n, False]
        where = f"{n} worlds" + (" (the reference: the same settings)" if n == REFERENCE else "")
        row = Row(f"PPO, {where}: return", _mean(ours, "return"), "reward", NAIVE, _mean(naive, "return"))
        row.wall_s, row.cpu_s = _mean(ours, "wall_s"), _mean(ours, "cpu_s")
        result.rows.append(row)
        if n > REFERENCE:  # a difference: returns can be negative, where a ratio says nothing
            gained = _mean(ours, "return") - _mean(naive, "return")
            result.rows.append(Row(f"PPO, {where}: return beyond that of {NAIVE}", gained, "reward", target=0.0))
        result.rows.append(Row(f"PPO, {where}: wall-clock", _mean(ours, "wall_s"), "s", NAIVE, _mean(naive, "wall_s"), None, "lower"))
        result.notes.append(f"{n} worlds, {steps:,} steps, return (seeds): scaled {_spread(ours, 'return')}, as they are {_spread(naive, 'return')}")
    named = {f"{n} worlds, {'scaled' if scaled else 'as they are'}": rows for (n, scaled), rows in groups.items() if n != REFERENCE or scaled}
    draw(folder / "scaling.svg", [panel(named, "return", "return", str)], list(named))
    result.notes.append(f"drawn: {folder / 'scaling.svg'}")
